# What the programs of a user's build say, which have fewer features than those of the tests.

bats_require_minimum_version 1.5.0

setup() {
  SERVER=${CODESEAL_SERVER_PROGRAM:-$BATS_TEST_DIRNAME/../../target/debug/codeseal-server}
}

@test "a server that is built without candle says how to build it, for a flag and for a variable" {
  local refusal="this program was built without candle: build it with \`--features candle\`"
  run -64 "$SERVER" bench --model tiny --backend candle
  [[ $output == *"$refusal"* ]]
  CODESEAL_BACKEND=candle run -64 "$SERVER" bench --model tiny
  [[ $output == *"$refusal"* ]]
}

@test "a server that is built without candle does not pass a check that needs it" {
  run -69 "$SERVER" kernels-check --device cpu
  [[ $output == *"this program was built without candle"* ]]
}
