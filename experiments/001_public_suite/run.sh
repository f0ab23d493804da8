#!/bin/sh
# Usage: experiments/001_public_suite/run.sh FOLDER_OF_TASKS
# Trains on the sixteen tasks of configs/public_suite.py, judges every text task that has a test split, and writes results.json,
# report.md and results.png beside this file. Two CPU cores: see README.md.
set -eu
here=$(dirname "$0")
mtret train --config=configs/public_suite.py --suite="$1" --workdir=runs/public_suite
mtret evaluate --model=runs/public_suite --suite="$1" --split=test --matmul_dtype=bfloat16 --out="$here"
