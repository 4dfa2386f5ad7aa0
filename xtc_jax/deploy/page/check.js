// Run by Node before a folder is kept: the page's own files and the page's own runtime, on inputs from standard input.
import { readFile } from "node:fs/promises";
import { argv, stdin, stdout } from "node:process";
import { pathToFileURL } from "node:url";

const read = async (path) => new Uint8Array(await readFile(`${argv[2]}/${path}`));
const load = (name) => import(pathToFileURL(`${argv[2]}/${name}`));
const [runtime, { Tokenizer }, { loadClassifier }] = await Promise.all(
  ["vendor/onnxruntime.js", "vendor/tokenizers.js", "classifier.js"].map(load),
);

const chunks = [];
for await (const chunk of stdin) chunks.push(chunk);
const { texts, batches } = JSON.parse(Buffer.concat(chunks).toString("utf8"));
const classifier = await loadClassifier(runtime, Tokenizer, read);
const logits = [];
for (const batch of batches) logits.push(...(await classifier.logits(batch)));
stdout.write(JSON.stringify({ tokens: texts.map((each) => classifier.encode(each)), logits }));
