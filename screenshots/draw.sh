#!/usr/bin/env bash
# Draws the pictures of this folder anew from recordings of an H100 and a CPU (bench/tour.py made them).
set -euo pipefail
cd "$(dirname "$0")/.."
draw() { "${PYTHON:-.venv/bin/python}" -m bench.pictures "$@" --out screenshots; }
draw screenshots/h100.sparkrec --png heavy \
  'one-chat=ready after 68+22.2' 'crowd=64 people+78' 'crowd-80x24@80x24=64 people+78' 'heavy=200 people+74' \
  'burst=burst +200+3' 'slow=16 slow readers+37' 'restart=cold restart+30' 'restart-engine#3=cold restart+45' \
  'load#4=64 people+78' 'lessons#6=64 people+78' 'plain#n=200 people+74' 'presenter#v=200 people+74' \
  'zoom#tab+tab+tab+tab+enter=200 people+74' \
  'light%light=64 people+78' 'high-contrast%high-contrast=64 people+78' 'colour-blind%colour-blind=200 people+74' \
  'no-colour%no-colour=200 people+74'
draw screenshots/h100-requests.sparkrec 'h100-requests#2=64 people+17'
draw screenshots/h100-levels.sparkrec 'gpu-1=1 people+28' 'gpu-256=256 people+33'
draw screenshots/h100-cold.sparkrec 'cold-kinds#3=engine ready after 66+8' 'cold-live#3=cold restart (disk+30'
draw screenshots/cpu.sparkrec 'requests#2=policy first come+8' 'policy#p=policy shortest+8'
