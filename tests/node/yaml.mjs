// Prints a file of YAML as JSON.
import { readFileSync } from "node:fs";
import YAML from "yaml";

console.log(JSON.stringify(YAML.parse(readFileSync(process.argv[2], "utf8"))));
