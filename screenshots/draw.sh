#!/usr/bin/env bash
# Draws the pictures of this folder anew from the recording of an H100 (bench/tour.py made it).
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-.venv/bin/python}" -m bench.pictures screenshots/h100.sparkrec --out screenshots --png heavy \
  'one-chat=ready after 68+22.2' 'crowd=64 people+78' 'crowd-80x24@80x24=64 people+78' 'heavy=200 people+74' \
  'burst=burst +200+3' 'slow=16 slow readers+37' 'restart=cold restart+30' 'restart-engine#3=cold restart+45'
"${PYTHON:-.venv/bin/python}" -m bench.pictures screenshots/h100-levels.sparkrec --out screenshots \
  'gpu-1=1 people+28' 'gpu-256=256 people+33'
"${PYTHON:-.venv/bin/python}" -m bench.pictures screenshots/h100-cold.sparkrec --out screenshots \
  'cold-kinds#3=engine ready after 66+8' 'cold-live#3=cold restart (disk+30'
"${PYTHON:-.venv/bin/python}" -m bench.pictures screenshots/cpu.sparkrec --out screenshots \
  'requests#2=policy first come+8' 'policy#p=policy shortest+8'
