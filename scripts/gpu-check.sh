#!/usr/bin/env bash
# Checks a machine with a CUDA device, and measures codeseal on it: gpu-check.sh SERVER [DIRECTORY]
#
# SERVER is a codeseal-server that was built with the feature `cuda` (scripts/cuda-build.sh), or one compressed by gzip; it and
# this file are all that must be copied there (below 60 MB). Needed on the machine: the driver (580 or newer), and for --backend candle cuBLAS and
# cuRAND in LD_LIBRARY_PATH (scripts/cuda-libraries.sh). No Rust, no CUDA toolkit, no Python, no network.
# DIRECTORY, where the results go, is ./gpu-check-results unless named: results.json, and table.txt for people.
# CODESEAL_CHECK_DEVICE names another device than cuda:0; CODESEAL_CHECK_SHAPES a part of "2b 7b" (2b unless named),
# CODESEAL_CHECK_TYPES of "none q8_0 q4k", which is what --quantize takes, and CODESEAL_CHECK_BACKENDS of "kernels candle".
# It ends after CODESEAL_CHECK_SECONDS (600): what is not measured by then is left out, which is said.
#
# First the device is checked (kernels-check): our kernels against candle there, on a model's first layers, then against the
# CPU. Then each type of weights is measured, with our kernels and with candle, and
# others in the same run, where they are there:
# - transformers: a python3 with torch and transformers that sees the device, and gpu-check/transformers_peer.py beside
#   this file. It also says how fast the device multiplies matrices, which reading a prompt is held against.
# - llama.cpp: CODESEAL_CHECK_LLAMA is the command of its llama-bench, options included, and CODESEAL_CHECK_GGUF a directory
#   with any of SHAPE-bf16.gguf, SHAPE-q8_0.gguf and SHAPE-q4_k_m.gguf.
set -euo pipefail
# Numbers have a point in every country.
export LC_ALL=C

server=${1:?usage: $0 SERVER [DIRECTORY]}
out=${2:-gpu-check-results}
device=${CODESEAL_CHECK_DEVICE:-cuda:0}
number=${device#cuda} number=${number#:} number=${number:-0}
shapes=${CODESEAL_CHECK_SHAPES:-2b}
types=${CODESEAL_CHECK_TYPES:-none q8_0 q4k}
backends=${CODESEAL_CHECK_BACKENDS:-kernels candle}
seconds=${CODESEAL_CHECK_SECONDS:-600}
read -r -a llama_bench <<<"${CODESEAL_CHECK_LLAMA:-}"
gguf=${CODESEAL_CHECK_GGUF:-}
transformers_peer=$(dirname "$0")/gpu-check/transformers_peer.py
new_tokens=64
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out/results.json" "$out/table.txt"
if [[ $server == *.gz ]]; then
  gzip -dc "$server" >"$work/codeseal-server"
  chmod +x "$work/codeseal-server"
  server=$work/codeseal-server
fi

declare -A multiplied
shape() { # name, hidden, inner, layers, heads, KV heads
  printf '{"model_type": "gemma", "vocab_size": 256000, "hidden_size": %s, "intermediate_size": %s,
    "num_hidden_layers": %s, "num_attention_heads": %s, "num_key_value_heads": %s, "head_dim": 256}\n' "${@:2}" \
    >"$work/$1.json"
  # The weights that every token of a prompt is multiplied with.
  multiplied[$1]=$(($4 * $2 * (2 * 256 * ($5 + $6) + 3 * $3)))
}
shape 2b 2048 16384 18 8 1
shape 7b 3072 24576 28 16 16

# limited COMMAND...: runs it in the time that is left.
limited() {
  local left=$((seconds - SECONDS))
  if ((left <= 0)); then
    echo "the $seconds seconds are over" >&2
    return 124
  fi
  timeout "$left" "$@"
}

say() { printf '%s\n' "$*" | tee -a "$out/table.txt"; }

say "=== checks"
passed=true
limited "$server" kernels-check --device "$device" --json >"$work/checks.json" || passed=false
[ -s "$work/checks.json" ] || { echo "the device cannot be checked, see above" >&2; exit 69; }
# A line for each: the names and, where there are any, the figures and the failure below.
sed -n -e 's/^ *"\(device\|name\|failure\)": "\(.*\)",\{0,1\}$/\1: \2/p' \
  -e 's/^ *"\(difference\|bound\)": \([0-9.eE+-]*\),\{0,1\}$/\1: \2/p' "$work/checks.json" | tee -a "$out/table.txt"

# The figures of a run are kept as JSON, and shown as a table made of the same numbers.
runs=() peers=() ratios=()

values() { # file, name: all numbers of that name
  sed -n "s/^ *\"$2\": \([0-9.eE+-]*\|null\),\{0,1\}\$/\1/p" "$1"
}

thousandths() { # number
  local digits
  printf -v digits '%.3f' "$1"
  echo $((10#${digits/./}))
}

decimal() { printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)); }

compare() { # run, what, number, number that it is divided by; where one is missing there is nothing to say
  { [ -n "$3" ] && [ -n "$4" ]; } || return 0
  local of by ratio
  of=$(thousandths "$3") by=$(thousandths "$4")
  ((by > 0)) || return 0
  ratio=$(decimal $((of * 1000 / by)))
  say "ratio: $2: $ratio"
  ratios+=("{\"run\": \"$1\", \"ratio\": \"$2\", \"value\": $ratio}")
}

# What a peer measures is kept as its JSON, and in $work/SHAPE-TYPE.PEER as lines: prefill or decode, tokens of the prompt,
# tokens a second.
keep() { # peer, shape, type, file of JSON
  peers+=("{\"peer\": \"$1\", \"weights\": \"$2-$3\", \"figures\":
$(cat "$4")}")
}

if [ -f "$transformers_peer" ] && python3 -c \
  'import sys, torch, transformers; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then
  measure_transformers() { # shape
    local json=$work/$1.transformers.json
    if ! limited python3 "$transformers_peer" "$work/$1.json" --device "cuda:$number" --prompt-tokens 128,512,2048 \
      --new-tokens "$new_tokens" >"$json"; then
      say "transformers: $1 not measured, see above"
      rm -f "$json"
      return
    fi
    keep transformers "$1" none "$json"
    paste <(values "$json" prompt_tokens) <(values "$json" prefill_tokens_per_second) \
      <(values "$json" decode_tokens_per_second) |
      while read -r tokens prefill decode; do
        printf 'prefill %s %s\ndecode %s %s\n' "$tokens" "$prefill" "$tokens" "$decode"
      done >"$work/$1-none.transformers"
  }
else
  say "transformers: no python3 here with torch, transformers and a CUDA device, so it is not measured"
  measure_transformers() { :; }
fi

if [ ${#llama_bench[@]} -gt 0 ]; then
  declare -A type_of=([none]=bf16 [q8_0]=q8_0 [q4k]=q4_k_m)
  # Of five runs the third, in order.
  medians() { # what is measured, file, name of the number of tokens
    local tokens rates
    sed -n "s/^ *\"$3\": \([0-9]*\),\$/\1/p; s/^ *\"samples_ts\": \[ \(.*\) \],\{0,1\}\$/\1/p" "$2" |
      while read -r tokens && read -r rates; do
        printf '%s %s %s\n' "$1" "$tokens" "$(tr -d ' ' <<<"$rates" | tr , '\n' | sort -g | sed -n 3p)"
      done
  }
  measure_llama() { # shape, type
    local name=$1-${type_of[$2]} common json
    if [ ! -f "$gguf/$name.gguf" ]; then
      say "llama.cpp: there is no $name.gguf, so it is not measured"
      return
    fi
    common=(-m "$gguf/$name.gguf" -ngl 99 -sm none -mg "$number" -r 5 -o json)
    json=$work/$name.llama
    if ! limited "${llama_bench[@]}" "${common[@]}" -p 128,512,2048 -n 0 >"$json.prefill" ||
      ! limited "${llama_bench[@]}" "${common[@]}" -p 0 -n "$new_tokens" -d 128,512,2048 >"$json.decode"; then
      say "llama.cpp: $name not measured, see above"
      return
    fi
    keep llama.cpp "$1" "$2" "$json.prefill"
    keep llama.cpp "$1" "$2" "$json.decode"
    { medians prefill "$json.prefill" n_prompt; medians decode "$json.decode" n_depth; } >"$work/$1-$2.llama.cpp"
  }
else
  say "llama.cpp: CODESEAL_CHECK_LLAMA names no llama-bench, so it is not measured"
  measure_llama() { :; }
fi

# Servers from before there were two backends have our kernels alone.
if ! "$server" bench --help 2>/dev/null | grep -q -e --backend; then
  say "candle: this server has no --backend, so it is not measured"
  backends=kernels
fi

measure() { # backend, shape, type of the weights, tokens of the prompt, batches
  local backend=$1 weights="$2-$3" name="$2-$3-$4-$1" run prefill one peer rate teraflops options=()
  run="$work/$name.run.json"
  [ "$backends" = kernels ] || options=(--backend "$backend")
  if ! limited "$server" bench --device "$device" --random-weights "$work/$2.json" --quantize "$3" --prompt-tokens "$4" \
    --new-tokens "$new_tokens" --batch "$5" --json ${options[@]+"${options[@]}"} >"$run"; then
    say "$name: not measured, see above"
    return
  fi
  runs+=("$run")
  prefill=$(values "$run" prefill_tokens_per_second)
  decode() { paste <(values "$2" batch) <(values "$2" tokens_per_second) | sed -n "s/^$1\t//p"; }
  say ""
  say "=== $name: memory $(values "$run" memory_bytes_per_second) B/s, weights $(values "$run" weight_bytes) B"
  say "prefill of $4: $prefill tokens/s, first token after $(values "$run" ttft_ms) ms"
  paste <(values "$run" batch) <(values "$run" tokens_per_second) <(values "$run" step_ms) \
    <(values "$run" memory_share) <(values "$run" launches_per_step) |
    while read -r batch rate step share launches; do
      say "batch $batch: $rate tokens/s, $step ms a step, $share of what the memory gives, ${launches/null/no} launches repeated"
    done
  one=$(decode 1 "$run")
  compare "$name" "decode, batch 64 to batch 1" "$(decode 64 "$run")" "$one"
  for peer in transformers llama.cpp; do
    [ -f "$work/$weights.$peer" ] || continue
    rate() { sed -n "s/^$1 $2 //p" "$work/$3.$peer"; }
    compare "$name" "decode, batch 1, to $peer" "$one" "$(rate decode "$4" "$weights")"
    compare "$name" "prefill, to $peer" "$prefill" "$(rate prefill "$4" "$weights")"
  done
  # How often candle's rate the kernels' is.
  local candle=$work/$weights-$4-candle.run.json
  if [ "$backend" = kernels ] && [ -s "$candle" ]; then
    compare "$name" "prefill, to candle" "$prefill" "$(values "$candle" prefill_tokens_per_second)"
    for batch in 1 8 64; do
      compare "$name" "decode, batch $batch, to candle" "$(decode "$batch" "$run")" "$(decode "$batch" "$candle")"
    done
  fi
  if [ "$3" = none ] && [ -f "$work/$2.transformers.json" ]; then
    # In thousandths of 10^12 operations a second: two for each weight. What attention computes is not counted.
    teraflops=$((2 * ${multiplied[$2]} * $(thousandths "$prefill") / 1000000000000))
    compare "$name" "prefill, to the device's rate for large matrices" "$(decimal "$teraflops")" \
      "$(values "$work/$2.transformers.json" matmul_teraflops)"
  fi
}
# candle first: its figures are what the kernels' are divided by.
order=()
for backend in candle kernels; do
  [[ " $backends " != *" $backend "* ]] || order+=("$backend")
done
for shape in $shapes; do
  measure_transformers "$shape"
  for type in $types; do
    measure_llama "$shape" "$type"
    for backend in "${order[@]}"; do
      measure "$backend" "$shape" "$type" 512 1,8,64
      measure "$backend" "$shape" "$type" 128 1
      measure "$backend" "$shape" "$type" 2048 1
    done
  done
done

list() { # values of JSON
  local separator='' value
  printf '['
  for value in "$@"; do
    printf '%s\n%s' "$separator" "$value"
    separator=,
  done
  printf ']'
}
figures=()
for run in ${runs[@]+"${runs[@]}"}; do
  figures+=("{\"run\": \"$(basename "$run" .run.json)\", \"figures\":
$(cat "$run")}")
done
{
  printf '{"passed": %s,\n"checks": ' "$passed"
  cat "$work/checks.json"
  printf ',\n"runs": %s' "$(list ${figures[@]+"${figures[@]}"})"
  printf ',\n"peers": %s' "$(list ${peers[@]+"${peers[@]}"})"
  printf ',\n"ratios": %s}\n' "$(list ${ratios[@]+"${ratios[@]}"})"
} >"$out/results.json"
say ""
say "written to $out"
[ "$passed" = true ] || { say "CHECKS FAILED: do not serve with this device"; exit 70; }
