// Numbers by layer as curves: lines that differ by dash as well as by colour, bands where there are intervals.

export interface Measure {
  label: string;
  one: (number | null)[];
  other: (number | null)[];
}

export interface Band {
  name: string;
  layers: number[];
  value: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
}

const [WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM] = [420, 220, 48, 12, 12, 28];

export function Curves({ layers, measures, names }: { layers: number[]; measures: Record<string, Measure>; names: [string, string] }) {
  const none = layers.map(() => null);
  return (
    <section class="curves" aria-label="means by layer">
      <div class="charts">
        {Object.values(measures).map(({ label, one, other }) => (
          <Chart label={label} bands={[one, other].map((value, i) => ({ name: names[i]!, layers, value, low: none, high: none }))} />
        ))}
      </div>
    </section>
  );
}

export function Bands({ label, bands }: { label: string; bands: Band[] }) {
  return <section class="curves wide" aria-label={label}><Chart label={label} bands={bands} /></section>;
}

function Chart({ label, bands }: { label: string; bands: Band[] }) {
  const known = bands.flatMap((band) => [...band.value, ...band.low, ...band.high]).filter((value): value is number => value !== null);
  const [low, high] = [Math.min(0, ...known), Math.max(0, ...known)];
  const layers = [...new Set(bands.flatMap((band) => band.layers))].sort((a, b) => a - b);
  const x = (layer: number) => LEFT + ((WIDE - LEFT - RIGHT) * layer) / Math.max(1, layers.at(-1) ?? 1);
  const y = (value: number) => TOP + ((HIGH - TOP - BOTTOM) * (high - value)) / (high - low || 1);
  const every = Math.max(1, Math.ceil(layers.length / 6));
  const points = (band: Band, values: (number | null)[]) => values.map((value, i) => (value === null ? null : ([x(band.layers[i]!), y(value)] as Point)));
  return (
    <figure>
      <figcaption>
        {label}
        {bands.map((band, i) => (
          <span class="key"><svg viewBox="0 0 30 8" class={`line${i % 4}`} aria-hidden="true"><path d="M1 4H29" /></svg> {band.name}</span>
        ))}
      </figcaption>
      <svg viewBox={`0 0 ${WIDE} ${HIGH}`} role="img" aria-label={`${label}: ${bands.map((band) => `${band.name} ${ends(band.value)}`).join("; ")}`}>
        {steps(low, high).map((tick) => (
          <>
            <line class="rule" x1={LEFT} x2={WIDE - RIGHT} y1={y(tick)} y2={y(tick)} />
            <text class="tick end" x={LEFT - 7} y={y(tick)}>{String(Number(tick.toPrecision(3))).replace("-", "−")}</text>
          </>
        ))}
        {layers.filter((_, i) => i % every === 0).map((layer) => <text class="tick middle" x={x(layer)} y={HIGH - 10}>{layer}</text>)}
        {bands.map((band, i) => <path class={`area line${i % 4}`} d={area(points(band, band.low), points(band, band.high))} />)}
        {bands.map((band, i) => <path class={`line${i % 4}`} d={path(points(band, band.value))} />)}
      </svg>
    </figure>
  );
}

type Point = [number, number];

const at = ([x, y]: Point) => `${x.toFixed(1)} ${y.toFixed(1)}`;

function path(points: (Point | null)[]): string {
  return points.map((point, i) => (point ? `${points[i - 1] ? "L" : "M"}${at(point)}` : "")).join("");
}

/** Between two curves, where both are known. */
function area(low: (Point | null)[], high: (Point | null)[]): string {
  const known = low.map((_, i) => i).filter((i) => low[i] && high[i]);
  if (known.length < 2) return "";
  return `M${known.map((i) => at(high[i]!)).join("L")}L${known.reverse().map((i) => at(low[i]!)).join("L")}Z`;
}

/** Four to six round numbers from low to high. */
function steps(low: number, high: number): number[] {
  const rough = (high - low || 1) / 5;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * ten).find((one) => one >= rough)!;
  const found: number[] = [];
  for (let n = Math.ceil(low / step); n * step <= high + step / 1e6; n++) found.push(n * step);
  return found;
}

function ends(line: (number | null)[]): string {
  const known = line.filter((value): value is number => value !== null);
  return known.length ? `from ${known[0]!.toFixed(2)} to ${known.at(-1)!.toFixed(2)}` : "unknown";
}
