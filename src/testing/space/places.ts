// Places and their versions: what the search for crash states knows of a medium, whether it is a disk or a tree of files.
//
// A place is what gets a version: a sector, an entry of a directory, the size of a file. A version is what a power cut may leave
// there. Places with the same history make a run, because a log of gigabytes has as many runs as it has different writes.
//
// A version is possible in a span of time:
//
//   after     the latest beginning of what it contains
//   ordered   the earliest moment from which something that it lacks must be there if anything later is there
//   durable   the earliest moment at which the host knows that something that it lacks is persisted
//
// Let T be the moment of the latest beginning of anything that is visible, anywhere. A version is possible if after <= T and
// T < ordered. So a version for each place is a crash state if and only if the latest `after` is less than the earliest `ordered`.
// A partial choice is described by these two numbers, and can always be completed, because at every moment each place has a
// version. The power was cut after the latest `after`, and not after the earliest `durable`, because from then on the
// application may have confirmed to its users what is missing.
//
// A medium may have further clocks (clocks.ts), and then a version is possible in a part of them. A disk has none.

/** A possible content of a place. */
export interface PlaceVersion {
  /** The number of the last command that contributed to it; -1 for the content before the trace. */
  readonly command: number;
  /** The latest beginning of what it contains. */
  readonly after: number;
  /** The earliest `ordered` of what it lacks. */
  readonly ordered: number;
  /** The earliest `durable` of what it lacks. */
  readonly durable: number;
  /** A medium that carries out everything in order and whole could leave it. */
  readonly intact: boolean;
}

/** A run of places with the same history. */
export interface Places<V extends PlaceVersion = PlaceVersion> {
  /** The number of its first place, among those of all runs. */
  readonly first: number;
  /** The number of its places. */
  readonly count: number;
  /** In the order of their `after`; the first is the content before the trace. */
  readonly versions: readonly V[];
}

/** All places of a medium. */
export interface PlaceMap<R extends Places = Places> {
  /** In the order of their places. */
  readonly regions: readonly R[];
  /** The number of places of all of them. */
  readonly places: number;
  /** The points of further clocks at a time that are worth a look; the first has everything that had begun. */
  readonly pointsAt?: (time: number) => Iterable<Slice>;
}

/** A part of the further clocks of a medium: a point, or what lies between neighbouring points. */
export interface Slice {
  /** The time at which the clocks can be there: from `start` to before `end`. */
  readonly start: number;
  readonly end: number;
  /** Whether a version is possible in all of it, as far as the further clocks say. */
  has(version: PlaceVersion): boolean;
}

/** What decided versions leave of time, and of further clocks. */
export interface Cut {
  /** The power was cut after this moment. */
  readonly after: number;
  /** The power was cut before this moment. */
  readonly before: number;
  /** Nothing that began from here on can be visible. */
  readonly bound: number;
  /** Whether another place may have this version. */
  allows(version: PlaceVersion): boolean;
  /** What is left when a place has this version, which must be allowed. */
  having(version: PlaceVersion): Cut;
}

const NEVER = Number.POSITIVE_INFINITY;

/** A cut of a medium without further clocks. */
export class TimeCut implements Cut {
  after: number = -NEVER;
  before: number = NEVER;
  bound: number = NEVER;

  allows({ after, ordered }: PlaceVersion): boolean {
    return after < this.bound && this.after < ordered;
  }

  having({ after, durable, ordered }: PlaceVersion): Cut {
    const cut = new TimeCut();
    cut.after = Math.max(this.after, after);
    cut.before = Math.min(this.before, durable);
    cut.bound = Math.min(this.bound, ordered);
    return cut;
  }
}

/** The run that contains the place. */
export function regionOf<R extends Places>({ regions }: PlaceMap<R>, place: number): R {
  let low = 0;
  let high = regions.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((regions[middle] as R).first > place) high = middle - 1;
    else low = middle;
  }
  return regions[low] as R;
}

/** A version of a run, by its index. */
export function versionAt<V extends PlaceVersion>({ versions }: Places<V>, version: number): V {
  return versions[version] as V;
}

/** The newest intact version from before `time`; with `at` also from `time` itself. */
export function newestUntil(
  { versions }: Places,
  time: number,
  at: boolean,
  slice?: Slice,
): number {
  let version = versions.length - 1;
  for (; version > 0; version -= 1) {
    const one = versions[version] as PlaceVersion;
    const { after, intact } = one;
    if (intact && (after < time || (at && after === time)) && slice?.has(one) !== false) break;
  }
  return version;
}

/** The places whose newest version until a moment is not there. */
export function* lostPlaces<R extends Places>(
  { regions }: PlaceMap<R>,
  versions: ArrayLike<number>,
  time: number,
): Generator<{ readonly region: R; place: number; there: number; newest: number }, void> {
  for (const region of regions) {
    const newest = newestUntil(region, time, true);
    for (let place = region.first; place < region.first + region.count; place += 1) {
      const there = versions[place] as number;
      if (there !== newest) yield { region, place, there, newest };
    }
  }
}

/** The versions that have begun by one moment, and are still possible at another. */
export function possibleAt(
  { versions }: Places,
  begun: number,
  ended: number = begun,
  slice?: Slice,
): number[] {
  const found: number[] = [];
  for (const [version, one] of versions.entries()) {
    if (one.after <= begun && ended < one.ordered && slice?.has(one) !== false) found.push(version);
  }
  return found;
}

/** The moments at which a version becomes possible, ascending. */
export function momentsOf({ regions }: PlaceMap): number[] {
  const all = regions.flatMap(({ versions }) => versions.slice(1).map(({ after }) => after));
  return [...new Set(all)].sort((a, b) => a - b);
}
