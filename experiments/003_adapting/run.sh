#!/bin/sh
# Usage: experiments/003_adapting/run.sh FOLDER_OF_TASKS [RUNS]
# Three trainings on the sixteen tasks of configs/public_suite.py, two merged models, three judgements; seven short trainings that show
# what each way to train costs; then the tables beside this file. What is finished already is not done again. See README.md.
set -eu
here=$(dirname "$0")
suite=$1
runs=${2:-runs/adapting}

train() {
  name=$1
  shift
  mtret train --config=configs/public_suite.py --suite="$suite" --workdir="$runs/$name" "$@"
}

long() {
  train "$@" "--config.dev.dimensions=(256,128,64)"
}

cost() {
  train "cost/$@" --config.mixture.tasks=policyqa --config.loop.steps=3 --config.dev.queries=4 \
    --config.dev.distractors=4 --config.optim.warmup_steps=1
}

judge() {
  test -e "$runs/judged/$1/results.json" ||
    mtret evaluate --model="$runs/$1" --suite="$suite" --split=test --noscann --nopooled --out="$runs/judged/$1"
}

long plain
long other_seed --config.seed=1
long matryoshka "--config.loss.dimensions=(256,128,64)"

test -e "$runs/half" || mtret merge --models="$runs/plain,minilm" --out="$runs/half"
test -e "$runs/soup" || mtret merge --models="$runs/plain,$runs/other_seed" --out="$runs/soup"
judge plain
judge half
judge soup

words="--config.optim.train=(('tower/embeddings/.*', False), ('.*', True))"
cost everything
cost average --config.optim.average=0.99
cost no_words "$words"
cost lora --config.model.lora.rank=8
cost lora_everywhere --config.model.lora.rank=8 "--config.model.lora.targets=encoder/.*/kernel"
cost documents_frozen --config.model.documents=frozen
cost lora_documents_frozen --config.model.documents=frozen --config.model.lora.rank=8

python "$here/tables.py" "$runs"
