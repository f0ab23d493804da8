#!/bin/sh
# Usage: experiments/003_adapting/run.sh FOLDER_OF_TASKS [RUNS]
# Three trainings on the sixteen tasks of configs/public_suite.py, two merged models, three judgements, what each way to train holds
# in memory; then the tables beside this file. What is finished already is not done again. See README.md.
set -eu
here=$(dirname "$0")
suite=$1
runs=${2:-runs/adapting}
# Two tasks of long documents take as long as all others, and pictures cannot be read by these models.
judged=$(ls "$suite" | grep -v -x -e aws_kb -e medquad -e icons -e '.*\..*' | paste -sd, -)

train() {
  name=$1
  shift
  mtret train --config=configs/public_suite.py --suite="$suite" --workdir="$runs/$name" \
    "--config.dev.dimensions=(256,128,64)" "$@"
}

judge() {
  test -e "$runs/judged/$1/results.json" ||
    mtret evaluate --model="$runs/$1" --suite="$suite" --split=test --noscann --nopooled --tasks="$judged" \
      --out="$runs/judged/$1"
}

train plain
train other_seed --config.seed=1
train matryoshka "--config.loss.dimensions=(256,128,64)"

test -e "$runs/half" || mtret merge --models="$runs/plain,minilm" --out="$runs/half"
test -e "$runs/soup" || mtret merge --models="$runs/plain,$runs/other_seed" --out="$runs/soup"
judge plain
judge half
judge soup

python "$here/memory.py" "$suite"
python "$here/tables.py" "$runs"
