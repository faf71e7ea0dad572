#!/usr/bin/env bash
# A tokenizer.json of a Gemma model is loaded without its pre-tokenizer, without a warning.
#
# Package:  transformers 5.24.0 with tokenizers 0.23.3 (Python); 4.57.1 takes the file as it is
# Expected: AutoTokenizer gives the ids that tokenizers gives for the same tokenizer.json.
# Seen:     for `model_type` gemma the class GemmaTokenizer is made from the file's vocabulary, merges and post-processor, and its
#           own normalizer and pre-tokenizer replace those of the file. Models of this type with a tokenizer of their own, such as
#           small ones that are trained for tests, get other ids in Python than in servers that read the file. With
#           `"tokenizer_class": "PreTrainedTokenizerFast"` in tokenizer_config.json the file is taken whole.
# Last run: 2026-11-30, Python 3.11
set -euo pipefail
folder=$(mktemp -d "${TMPDIR:-/tmp}/finding.XXXXXX")
trap 'rm -rf "$folder"' EXIT
for version in 4.57.1 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet "transformers==$version" || exit 69
done
"$folder/5.24.0/bin/pip" install --quiet tokenizers==0.23.3 || exit 69
cat >"$folder/check.py" <<'EOF'
import json, pathlib, sys, tokenizers, transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

folder = pathlib.Path(sys.argv[1])
folder.mkdir()
tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
tokenizer.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
special = ["<pad>", "<eos>", "<bos>", "<unk>"]
words = ["total = 10", "total = 20", "a10 b10 c10 d20 e20"] * 9
tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False))
# A merge that the pre-tokenizer keeps from ever being used: vocabularies that were cut down have such.
saved = json.loads(tokenizer.to_str())
saved["model"]["vocab"]["10"] = len(saved["model"]["vocab"])
saved["model"]["merges"].append(["1", "0"])
(folder / "tokenizer.json").write_text(json.dumps(saved))
(folder / "config.json").write_text(json.dumps({"model_type": "gemma"}))
expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("total = 10").tokens
print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
print(f"expected: {expected}")
wrong = 0
for chosen in None, "PreTrainedTokenizerFast":
    if chosen:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": chosen}))
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    seen = loaded.convert_ids_to_tokens(loaded.encode("total = 10", add_special_tokens=False))
    print(f"seen:     {seen} ({type(loaded).__name__})")
    wrong = 2 * wrong + (seen != expected)
raise SystemExit(wrong)
EOF
before=0 now=0
"$folder/4.57.1/bin/python" "$folder/check.py" "$folder/before" || before=$?
"$folder/5.24.0/bin/python" "$folder/check.py" "$folder/now" || now=$?
# Wrong with the class that is chosen by the model's type, right with the other.
[ "$before" = 0 ] && [ "$now" = 2 ]
