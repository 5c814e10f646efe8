// A token as the grid shows it, `midstream/view/token_text.py`, and back as the text that it is.

const MARKS: Record<string, string> = { "·": " ", "⏎": "\n", "⇥": "\t", "␍": "\r", "␡": "\x7f" };

/** The text of a token; null where it is none by itself, but a part of a character's bytes. */
export function textOf(shown: string): string | null {
  if (/\\x[0-9a-f]{2}/.test(shown)) return null;
  return shown
    .replace(/◌(?=\p{M})/gu, "")
    .replace(/[·⏎⇥␍␡]/g, (mark) => MARKS[mark]!)
    .replace(/[\u2400-\u241f]/g, (mark) => String.fromCharCode(mark.charCodeAt(0) - 0x2400))
    .replace(/\\u([0-9a-f]{4})|\\U([0-9a-f]{8})/g, (_, short, long) => String.fromCodePoint(parseInt(short ?? long, 16)));
}
