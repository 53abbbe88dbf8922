"""The pack without a graph: starts the host's modules without its server, and calls the nodes' own entry functions.

host.py starts, calls.py calls a node, project.py is the file that says what to do, work.py does it, files.py looks into
files, told.py speaks to people and programs. cli.py is the door.
"""
