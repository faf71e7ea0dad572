#!/usr/bin/env bash
# Checks a machine with a CUDA device, and measures codeseal on it: gpu-check.sh SERVER [DIRECTORY]
#
# SERVER is a codeseal-server that was built with the feature `cuda`; it and this file are all that must be copied there
# (below 60 MB). Needed on the machine: the driver (580 or newer). No Rust, no CUDA toolkit, no Python, no network.
# DIRECTORY, where the results go, is ./gpu-check unless named: results.json, and table.txt for people.
# CODESEAL_CHECK_DEVICE names another device than cuda:0; CODESEAL_CHECK_SHAPES a part of "2b 7b".
set -euo pipefail

server=${1:?usage: $0 SERVER [DIRECTORY]}
out=${2:-gpu-check}
device=${CODESEAL_CHECK_DEVICE:-cuda:0}
shapes=${CODESEAL_CHECK_SHAPES:-2b 7b}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out/results.json" "$out/table.txt"

shape() { # hidden, inner, layers, heads, heads that are asked
  printf '{"model_type": "gemma", "vocab_size": 256000, "hidden_size": %s, "intermediate_size": %s,
    "num_hidden_layers": %s, "num_attention_heads": %s, "num_key_value_heads": %s, "head_dim": 256}\n' "$@"
}
shape 2048 16384 18 8 1 >"$work/2b.json"
shape 3072 24576 28 16 16 >"$work/7b.json"

say() { printf '%s\n' "$*" | tee -a "$out/table.txt"; }

say "=== checks"
passed=true
"$server" kernels-check --device "$device" --json >"$work/checks.json" || passed=false
[ -s "$work/checks.json" ] || { echo "the device cannot be checked, see above" >&2; exit 69; }
# A line for each: the names and, where there is one, the failure below.
sed -n 's/^ *"\(device\|name\|failure\)": "\(.*\)",\{0,1\}$/\1: \2/p' "$work/checks.json" | tee -a "$out/table.txt"

# The figures of a run are kept as JSON, and shown as a table made of the same numbers.
runs=()
measure() { # shape, type of the weights, tokens of the prompt, batches
  local name="$1-$2-$3" run
  run="$work/$name.run.json"
  if ! "$server" bench --device "$device" --random-weights "$work/$1.json" --quantize "$2" --prompt-tokens "$3" \
    --new-tokens 64 --batch "$4" --json >"$run"; then
    say "$name: not measured, see above"
    return
  fi
  runs+=("$run")
  value() { sed -n "s/^ *\"$1\": \([0-9.eE+-]*\),\{0,1\}\$/\1/p" "$run"; }
  say ""
  say "=== $name: memory $(value memory_bytes_per_second) B/s, weights $(value weight_bytes) B"
  say "prefill of $3: $(value prefill_tokens_per_second) tokens/s, first token after $(value ttft_ms) ms"
  paste <(value batch) <(value tokens_per_second) <(value step_ms) <(value memory_share) |
    while read -r batch rate step share; do
      say "batch $batch: $rate tokens/s, $step ms a step, $share of what the memory gives"
    done
}
for shape in $shapes; do
  for type in none q8_0; do
    measure "$shape" "$type" 128 1
    measure "$shape" "$type" 512 1,8,64
    measure "$shape" "$type" 2048 1
  done
done

{
  printf '{"passed": %s,\n"checks": ' "$passed"
  cat "$work/checks.json"
  printf ',\n"runs": ['
  separator=
  for run in ${runs[@]+"${runs[@]}"}; do
    printf '%s\n{"run": "%s", "figures":\n' "$separator" "$(basename "$run" .run.json)"
    cat "$run"
    printf '}'
    separator=,
  done
  printf ']}\n'
} >"$out/results.json"
say ""
say "written to $out"
[ "$passed" = true ] || { say "CHECKS FAILED: do not serve with this device"; exit 70; }
