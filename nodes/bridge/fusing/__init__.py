"""Fusion inside the host.

calibration.py collects statistics, stages.py orders the passes, fusion.py checks, fuses and saves.
"""
