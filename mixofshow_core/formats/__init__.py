"""Readers and writers of concept files.

Lives here: one module per file dialect, each checking sizes, dtypes and finite values. May not: anything that unpickles.
"""
