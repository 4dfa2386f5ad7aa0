// node classify.js FOLDER NAME: logits and the pipeline's label of the pairs (or texts) that standard input lists as JSON.
import { readFileSync } from "node:fs";
import { AutoModelForSequenceClassification, AutoTokenizer, env, pipeline } from "@huggingface/transformers";

const [folder, name] = process.argv.slice(2);
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = folder;

const rows = JSON.parse(readFileSync(0, "utf8"));
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForSequenceClassification.from_pretrained(name);
const logits = [];
for (const [text, text_pair] of rows) {
  const { logits: found } = await model(tokenizer(text, { text_pair, truncation: true }));
  logits.push(found.tolist()[0]);
}
const labels = [];
if (rows[0].length === 1) {
  const classify = await pipeline("text-classification", name);
  for (const [text] of rows) labels.push((await classify(text))[0].label);
}
console.log(JSON.stringify({ logits, labels }));
