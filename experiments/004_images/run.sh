#!/bin/sh
# Usage: experiments/004_images/run.sh FOLDER_OF_TASKS [WORKDIR]
# Trains configs/icons.py, judges it on its own tasks and some of other departments, and writes results and plot beside this file.
set -eu
here=$(dirname "$0")
suite=$1
workdir=${2:-runs/icons}
tasks=icons,banking77,hwu64,spider_table,spidersyn_table,nl2bash,metatool,sql_query
mtret train --config=configs/icons.py --suite="$suite" --workdir="$workdir"
mtret evaluate --model="$workdir" --suite="$suite" --split=test --tasks="$tasks"
python "$here/curve.py" "$workdir"
