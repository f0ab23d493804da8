#!/bin/sh
# Usage: experiments/001_public_suite/run.sh FOLDER_OF_TASKS
# Trains and evaluates what sweep.py says, and copies results.json, report.md and results.png beside this file. Two CPU cores: see README.md.
set -eu
here=$(dirname "$0")
mtret sweep "$here/sweep.py" --suite="$1" --out=runs/public_suite
found=runs/public_suite/plain/seed0/test
cp "$found/results.json" "$found/report.md" "$found/results.png" "$here/"
