import { encode } from "./tokens.js";

/**
 * A classifier out of `model/`. Neither the page nor Node is assumed.
 *
 * `runtime` is ONNX Runtime's module, `Tokenizer` the tokenizers' class, and `read(path)` gives the bytes of a file.
 */
export async function loadClassifier(runtime, Tokenizer, read) {
  const json = async (path) => JSON.parse(new TextDecoder().decode(await read(path)));
  const [settings, pieces, options, model, wasm] = await Promise.all([
    json("model/settings.json"),
    json("model/tokenizer.json"),
    json("model/tokenizer_config.json"),
    read("model/onnx/model.onnx"),
    read("vendor/onnxruntime.wasm"),
  ]);
  runtime.env.wasm.wasmBinary = wasm; // as bytes: a server need not know the type of a .wasm file
  runtime.env.wasm.numThreads = 1; // more need headers that not every server sends
  const session = await runtime.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return new Classifier(runtime, session, new Tokenizer(pieces, options), settings);
}

class Classifier {
  constructor(runtime, session, tokenizer, settings) {
    Object.assign(this, { runtime, session, tokenizer, settings });
  }

  encode(texts) {
    return encode(this.tokenizer, this.settings, texts);
  }

  /** Logits, one after the other, of rows of equal length. */
  async logits({ input_ids, attention_mask, token_type_ids }) {
    const shape = [input_ids.length, input_ids[0].length];
    const tensor = (rows) => new this.runtime.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), shape);
    const found = await this.session.run({
      input_ids: tensor(input_ids),
      attention_mask: tensor(attention_mask),
      token_type_ids: tensor(token_type_ids),
    });
    return Array.from(found.logits.data);
  }

  /** The answer to one text or pair: its logits, the number of its tokens, and whether it was cut. */
  async answer(texts) {
    const { ids, types, cut } = this.encode(texts);
    const logits = await this.logits({ input_ids: [ids], attention_mask: [ids.map(() => 1)], token_type_ids: [types] });
    return { logits, tokens: ids.length, cut };
  }
}

/** Softmax. */
export function probabilities(logits) {
  const powers = logits.map((value) => Math.exp(value - Math.max(...logits)));
  const sum = powers.reduce((one, other) => one + other);
  return powers.map((value) => value / sum);
}
