"""One visit to a machine that one has for minutes; `scripts/accelerator.sh` is the command.

stages.py     what is run, in order of worth: one table
visit.py      runs the stages within their time, and tells what became of each
process.py    one command: its lines as they come, its time limit
archive.py    what was measured so far, in one file that is whole at every moment
machine.py    what this machine is
"""
