/** How many tokens of each text are kept where `room` is all there is: the longer of two loses first. */
export function kept(lengths, room) {
  if (lengths.length === 1) return [Math.min(lengths[0], room)];
  const [first, second] = lengths;
  if (first + second <= room) return [first, second];
  const short = Math.min(first, second, Math.floor(room / 2));
  return first > second ? [room - short, short] : [short, room - short];
}

/**
 * Token ids and segments of one text or of a pair, `[CLS] first [SEP] second [SEP]`.
 *
 * The tokenizer of npm gives no segments and does not cut: both are done here, as the Python library does them.
 */
export function encode(tokenizer, settings, texts) {
  const pieces = texts.map((text) => tokenizer.encode(text, { add_special_tokens: false }).ids);
  const lengths = pieces.map((each) => each.length);
  const room = settings.max_length - 1 - texts.length;
  const ends = kept(lengths, room);
  const ids = [settings.cls];
  const types = [0];
  pieces.forEach((piece, segment) => {
    const part = [...piece.slice(0, ends[segment]), settings.sep];
    ids.push(...part);
    types.push(...part.map(() => segment));
  });
  return { ids, types, cut: lengths.some((length, i) => length > ends[i]) };
}
