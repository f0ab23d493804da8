#!/bin/sh
# Usage: experiments/003_adapting/run.sh FOLDER_OF_TASKS [RUNS]
# The trainings of sweep.py, two merged models, evaluated alike, and what each way to train holds in memory; then the tables beside this
# file. What is finished already is not done again. See README.md.
set -eu
here=$(dirname "$0")
suite=$1
runs=${2:-runs/adapting}
plain=$runs/plain/seed0
tasks=$(python -c "import runpy; print(','.join(runpy.run_path('$here/sweep.py')['get_sweep']().tasks))")

merged() {
  name=$1
  shift
  test -e "$runs/$name" || mtret merge --models="$1" --out="$runs/$name"
  test -e "$runs/$name/test/results.json" ||
    mtret evaluate --model="$runs/$name" --suite="$suite" --split=test --noscann --nopooled --tasks="$tasks" --out="$runs/$name/test"
}

mtret sweep "$here/sweep.py" --suite="$suite" --out="$runs" "--config.dev.dimensions=(256,128,64)"
merged half "$plain,minilm"
merged soup "$plain,$runs/plain/seed1"

python "$here/memory.py" "$suite"
python "$here/tables.py" "$runs"
