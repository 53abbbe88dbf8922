"""Training runs inside the host.

request.py says what a run is; data, encode, parts, memory, prior and validation read it; run.py runs it.
"""
