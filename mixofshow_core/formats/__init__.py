"""Readers and writers of concept files.

Lives here: one module per file dialect, each checking sizes, dtypes and finite values. Only pickled.py may unpickle.
"""
