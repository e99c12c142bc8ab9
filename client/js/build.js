// Makes what is shipped. package.json has the hash of its sources, so that a test finds
// that it was not built again.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";

const esbuild = "esbuild@0.28.2";
execFileSync("npx", ["--yes", esbuild, "herald.js", "--bundle", "--minify", "--format=esm", "--target=es2022", "--outfile=herald.min.js"], {
  stdio: "inherit",
});
const about = JSON.parse(readFileSync("package.json"));
about.source = createHash("sha256").update(readFileSync("herald.js")).update(readFileSync("frames.js")).digest("hex");
writeFileSync("package.json", JSON.stringify(about, null, 2) + "\n");
