#!/usr/bin/env bash
# What training needs beside JAX, Flax, Optax, Orbax, tokenizers, safetensors and rich, as wheels: for a machine that has these
# and no network.
#
#   experiments/002_training_speed/wheels.sh [FOLDER] [PYTHON VERSION] [PLATFORM]      (wheels, 3.12, x86_64)
#
# There:
#
#   python -m pip install --no-index --no-deps --target=site wheels/*.whl && export PYTHONPATH=site:.
set -euo pipefail

folder=${1:-wheels} python=${2:-3.12} machine=${3:-x86_64}
limit=$((60 * 2 ** 20))
here=$(cd "$(dirname "$0")/../.." && pwd)

# grain with what it needs; configurations; training curves; BM25; ScaNN. Each in the version that the tests ran with.
names="grain array-record portpicker cloudpickle ml-collections tensorboardX bm25s PyStemmer scann"
versions=()
for name in $names; do
  pinned=$(grep -i "^$name==" "$here/constraints.txt" | head -1 | sed 's/ *;.*//')
  versions+=("${pinned:?$name is not in constraints.txt}")
done

platforms=()
for glibc in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${glibc}_$machine")
done
mkdir -p "$folder"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
  --python-version "$python" "${platforms[@]}" --dest "$folder" "${versions[@]}"

bytes=$(du -sb "$folder" | cut -f1)
echo "$folder: $(ls "$folder" | wc -l) wheels, $((bytes / 2 ** 20)) MiB"
if [ "$bytes" -gt "$limit" ]; then
  echo >&2 "wheels.sh: more than $((limit / 2 ** 20)) MiB; is there anything else in $folder?"
  exit 1
fi
