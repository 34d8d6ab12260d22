// What the benchmarks have in common: a median, and how a comparison is printed.

export function median(values) {
  return values.toSorted((x, y) => x - y)[values.length >> 1];
}

/** A rate per second, in words. */
export function perSecond(values) {
  return `${Math.round(median(values)).toLocaleString('en')}/s`;
}

/** The median of ratios, with their range. */
export function ratioOf(ratios) {
  const range = [Math.min(...ratios), Math.max(...ratios)].map((ratio) => ratio.toFixed(2));
  return `${median(ratios).toFixed(2)} (${range.join(' to ')})`;
}
