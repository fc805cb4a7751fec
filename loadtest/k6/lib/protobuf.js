// As much of protobuf as a join needs: k6 has none.

function varint(value) {
  const bytes = [];
  let rest = value;
  while (rest > 127) {
    bytes.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  return [...bytes, rest];
}

/// ASCII only: SDP, identities and versions are.
function ascii(text) {
  return Array.from(text, (c) => c.charCodeAt(0));
}

/// A field of a message: a number or boolean, a text, or bytes (also those of a message).
export function field(number, value) {
  if (typeof value === 'number' || typeof value === 'boolean') {
    return [...varint(number * 8), ...varint(Number(value))];
  }
  const bytes = typeof value === 'string' ? ascii(value) : value;
  return [...varint(number * 8 + 2), ...varint(bytes.length), ...bytes];
}

/// The fields of a message in order: number, and bytes or a number.
export function fields(bytes) {
  const found = [];
  let at = 0;
  const number = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length) throw new Error('a message that is cut off');
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = number();
    const [id, kind] = [Math.floor(key / 8), key % 8];
    if (kind === 0) {
      found.push([id, number()]);
      continue;
    }
    const length = { 1: 8, 5: 4 }[kind] ?? number();
    if (at + length > bytes.length) throw new Error('a message that is cut off');
    found.push([id, bytes.subarray(at, at + length)]);
    at += length;
  }
  return found;
}
