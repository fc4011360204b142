// Resolves flags with flagd's own evaluation library: node flagd.cjs FILE FLAG CONTEXT… prints one JSON line for each context.
const { readFileSync } = require("node:fs");
const { FlagdCore } = require("@openfeature/flagd-core");

const [file, flag, ...contexts] = process.argv.slice(2);
const core = new FlagdCore();
core.setConfigurations(readFileSync(file, "utf8"));
for (const context of contexts) {
  const { value, variant, reason, errorCode } = core.resolveBooleanEvaluation(flag, true, JSON.parse(context), console);
  console.log(JSON.stringify({ value, variant, reason, errorCode }));
}
