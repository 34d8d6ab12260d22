// Goal: the picture of a counterexample shows what the report says, and nothing that a user writes can break it.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { IoScheduler, type Storage } from 'write-barrier';
import {
  type CrashReport,
  type CrashTest,
  crashPage,
  crashPicture,
  crashTest,
  formatCrashReport,
} from 'write-barrier/testing';
import { share } from '../kit/amount.js';
import { type Element, elementsOf, parseXml } from '../kit/xml.js';

const SECTOR = 512;
const BLOCKS = 4;
/** With room between them, so that each has a lane of its own. */
const offsetOf = (block: number): number => 2 * block * SECTOR;

interface Step {
  readonly kind: 'write' | 'barrier' | 'flush';
  readonly block: number;
}

function contents(disk: Storage): number[] {
  return [...Array(BLOCKS).keys()].map((block) => {
    const bytes = new Uint8Array(SECTOR);
    disk.read(offsetOf(block), bytes);
    return bytes[0] as number;
  });
}

/** A workload that acknowledges all of its steps at the end, with or without a flush before. */
function acknowledging(steps: readonly Step[], label?: (offset: number) => string) {
  const wanted = Array<number>(BLOCKS).fill(0);
  for (const [at, { kind, block }] of steps.entries()) if (kind !== 'flush') wanted[block] = at + 1;
  const crash: CrashTest<string, number[]> = {
    size: 2 * BLOCKS * SECTOR,
    workload: async (device, journal) => {
      const disk = new IoScheduler(device);
      await Promise.all(
        steps.map(({ kind, block }, at) => {
          if (kind === 'flush') return disk.flush();
          const data = new Uint8Array(SECTOR).fill(at + 1);
          return disk.write(offsetOf(block), data, { barrier: kind === 'barrier' });
        }),
      );
      journal.acknowledge('all');
    },
    recover: contents,
    check: (found, { acknowledged }) =>
      acknowledged.length === 0 || found.every((value, block) => value === wanted[block]),
    ...(label && { label }),
  };
  return crash;
}

const steps = fc.array(
  fc.record({
    kind: fc.constantFrom<Step['kind'][]>('write', 'write', 'barrier', 'flush'),
    block: fc.nat(BLOCKS - 1),
  }),
  { minLength: 1, maxLength: 8 },
);

/** What the rectangles of a look say that stand for commands; those of the legend say nothing. */
function bars(svg: string, look: string): string[] {
  return elementsOf(parseXml(svg), 'rect')
    .filter(({ attributes: { class: own } }) => own === look)
    .flatMap((rect: Element) => rect.inner.map(({ text }) => text));
}

/** The number of the command and its place. */
const placeIn = (title: string): string => title.replace(/^(#\d+) .* at (.*): .*$/, '$1 $2');
const cutsIn = (svg: string): number => svg.match(/class="cut"/g)?.length ?? 0;

test('given any small program, when its picture is drawn, then exactly what the report says is lost is hollow', async () => {
  let failures = 0;
  await fc.assert(
    fc.asyncProperty(steps, async (program) => {
      const report = await crashTest(acknowledging(program));
      const svg = crashPicture(report);
      const hollow = bars(svg, 'lost').map(placeIn);
      const lost = report.failure?.lost ?? [];
      expect(hollow.sort()).toEqual(
        lost.map(({ offset, command }) => `#${command} offset ${offset}`).sort(),
      );
      const there = report.failure?.cuts[0]?.regions.map((one) => `#${one.there} ${one.label}`);
      for (const title of bars(svg, 'there')) expect(there).toContain(placeIn(title));
      expect(cutsIn(svg)).toBe(report.verdict === 'failed' ? 1 : 0);
      failures += Number(report.verdict === 'failed');
    }),
    { numRuns: 60, seed: 1 },
  );
  expect(failures).toBeGreaterThan(20);
});

test('given any texts of a user, when they are drawn, then the picture is well-formed and has none of them as markup', async () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string({ unit: fc.nat(0x9f).map((code) => String.fromCharCode(code)) }),
    fc.constantFrom(
      '</title></svg><script>alert(1)</script>',
      ']]>&lt;<!--',
      '"\' onload="alert(1)',
      '\ud800\u202e\ufffe',
    ),
  );
  const program: Step[] = [{ kind: 'write', block: 0 }];
  await fc.assert(
    fc.asyncProperty(text, text, text, async (label, operation, message) => {
      const crash: CrashTest<string, number[]> = {
        ...acknowledging(program, () => label),
        workload: async (disk, journal) => {
          await disk.write(0, new Uint8Array(SECTOR).fill(1), { fua: false, tag: 'simple' });
          journal.acknowledge(operation);
        },
        check: (found, { acknowledged }) => {
          if (acknowledged.length > 0 && found[0] !== 1) throw new Error(message);
          return true;
        },
      };
      const report = await crashTest(crash);
      expect(report.verdict).toBe('failed');
      const svg = crashPicture(report);
      const names = new Set(['svg', 'title', 'desc', 'style', 'rect', 'line', 'text', 'g']);
      const visit = ({ name, attributes, inner }: Element): void => {
        expect(names).toContain(name);
        expect(Object.keys(attributes).filter((key) => key.startsWith('on'))).toEqual([]);
        for (const one of inner) visit(one);
      };
      visit(parseXml(svg));
      expect(crashPage(report)).not.toMatch(/<(?:script|img|!--)/);
    }),
    { numRuns: share(60, 15), seed: 1 },
  );
});

test('given a report that is proved, when it is drawn, then its lanes have the labels', async () => {
  const test = acknowledging(
    [
      { kind: 'write', block: 0 },
      { kind: 'write', block: 1 },
      { kind: 'flush', block: 0 },
    ],
    (offset) => `page ${offset / SECTOR}`,
  );
  const report = await crashTest(test);
  expect(report.verdict).toBe('proved');
  const svg = crashPicture(structuredClone(report));
  expect(svg).toContain('page 0');
  expect(svg).toContain('page 2');
  expect(svg).not.toContain('offset');
});

test('given operations with long names, when they are drawn, then no name is cut short', async () => {
  const name = 'put the first key = a value in so many words that they need two lines';
  const report = await crashTest({
    ...acknowledging([{ kind: 'write', block: 0 }]),
    workload: async (device, journal) => {
      await new IoScheduler(device).write(0, new Uint8Array(SECTOR).fill(1));
      journal.acknowledge(name);
    },
  });
  expect(report.verdict).toBe('failed');
  const shown = elementsOf(parseXml(crashPicture(report)), 'text').map(({ text }) => text);
  expect(shown.join(' ')).toContain(`acknowledged: ${name}`);
});

describe('given a report', () => {
  const lossy: Step[] = [
    { kind: 'write', block: 0 },
    { kind: 'write', block: 1 },
  ];

  test('when a barrier would have prevented it, then the picture shows where, in the words of the report', async () => {
    const report = await crashTest(acknowledging(lossy));
    const svg = crashPicture(report);
    expect(svg).toContain('class="good"');
    expect(svg).toContain('a flush is missing here');
    expect(svg).toContain('acknowledged: all');
    expect(report.failure?.text).toContain(report.failure?.advice?.text);
  });

  test('when it is proved, then the picture is that of its trace, without a power cut', async () => {
    const report = await crashTest(acknowledging([...lossy, { kind: 'barrier', block: 2 }]));
    expect(report.verdict).toBe('proved');
    const svg = crashPicture(report);
    expect(cutsIn(svg)).toBe(0);
    expect(bars(svg, 'open')).toHaveLength(3);
  });

  test('when its workload hangs, then the picture shows what had been sent', async () => {
    const report = await crashTest({
      ...acknowledging(lossy),
      workload: async (disk) => {
        await disk.write(0, new Uint8Array(SECTOR), { fua: false, tag: 'simple' });
        await new Promise(() => undefined);
      },
      hangMs: 50,
    });
    expect(report.verdict).toBe('hung');
    expect(bars(crashPicture(report), 'open')).toHaveLength(1);
    expect(crashPage(report)).toContain('Look at what it waits for.');
  });

  test('when the recovery is cut short as well, then there is a second picture below the first', async () => {
    const report = await crashTest<number, number>({
      size: 2 * SECTOR,
      nested: true,
      workload: async (disk, journal) => {
        await disk.write(0, new Uint8Array(SECTOR).fill(7), { fua: true, tag: 'simple' });
        journal.acknowledge(7);
      },
      // The journal is cleared before the page is written.
      recover: (disk) => {
        const [journal = 0, page = 0] = [0, SECTOR].map((offset) => {
          const bytes = new Uint8Array(SECTOR);
          disk.read(offset, bytes);
          return bytes[0] as number;
        });
        if (journal === 0) return page;
        disk.write(0, new Uint8Array(SECTOR), { fua: true, tag: 'simple' });
        disk.write(SECTOR, new Uint8Array(SECTOR).fill(journal), { fua: true, tag: 'simple' });
        return journal;
      },
      check: (found, { acknowledged }) => acknowledged.every((value) => value === found),
    });
    expect(report.verdict).toBe('failed');
    expect(report.failure?.cuts).toHaveLength(2);
    expect(cutsIn(crashPicture(report))).toBe(2);
  });

  test('when a fault took a write away, then that is neither filled nor hollow', async () => {
    const report = await crashTest({
      ...acknowledging([{ kind: 'barrier', block: 0 }]),
      faults: [{ on: 'write', nth: 0, fault: 'lost' }],
    });
    const svg = crashPicture(report);
    expect(bars(svg, 'fault')).toEqual(['#1 write of 512 bytes at offset 0: fault (lost)']);
    expect([...bars(svg, 'lost'), ...bars(svg, 'there')]).toEqual([]);
  });

  test('when it is of thousands of commands, then the picture has the size of a screen', async () => {
    const program = Array.from(
      { length: 2000 },
      (_, at): Step => ({ kind: 'write', block: at % BLOCKS }),
    );
    const report = await crashTest({ ...acknowledging(program), recoveriesMax: 200 });
    const svg = crashPicture(report);
    expect(svg.length).toBeLessThan(100_000);
    expect(svg).toContain('not shown');
  });

  test('when writes to neighbouring sectors are left out, then no lane stands for them', async () => {
    const filled = (value: number): Uint8Array => new Uint8Array(SECTOR).fill(value);
    const report = await crashTest({
      size: 64 * SECTOR,
      workload: async (disk, journal) => {
        const flags = { fua: false, tag: 'simple' } as const;
        await Promise.all(
          Array.from({ length: 61 }, (_, at) => disk.write(at * SECTOR, filled(at + 1), flags)),
        );
        journal.acknowledge('all');
      },
      recover: contents,
      check: ([first], { acknowledged }) => acknowledged.length === 0 || first === 1,
    });
    const svg = crashPicture(report);
    const notes = elementsOf(parseXml(svg), 'text').map(({ text }) => text);
    expect(notes).toContain('not shown: 53 more commands and acknowledgements');
    expect(notes.filter((note) => /offset \d+ and \d+ more/.test(note))).toEqual([]);
  });

  test('when a flush is missing before an acknowledgement, then the page tells of no later write that could be a barrier', async () => {
    const early: CrashTest<string, number> = {
      size: SECTOR,
      workload: async (disk, journal) => {
        await disk.write(0, new Uint8Array(SECTOR).fill(1), { fua: false, tag: 'simple' });
        journal.acknowledge('saved');
      },
      recover: async (disk) => {
        const found = new Uint8Array(SECTOR);
        await disk.read(0, found);
        return found[0] ?? 0;
      },
      check: (found, { acknowledged }) => found === 1 || acknowledged.length === 0,
    };
    const page = crashPage(await crashTest(early));
    expect(page).toContain('wait for the flush before you acknowledge');
    expect(page).not.toContain('barrier: true');
  });

  test('when it is copied, then the copy has the same picture', async () => {
    const report = await crashTest(acknowledging(lossy));
    const copy: CrashReport = structuredClone(report);
    expect(crashPicture(copy)).toBe(crashPicture(report));
  });

  test('when its page is written, then it has the text, the warnings and the picture, and refers to nothing outside', async () => {
    const report = await crashTest({ ...acknowledging(lossy), recoveriesMax: 0 });
    expect(report.verdict).toBe('passed');
    const page = crashPage(report);
    expect(page).toContain(crashPicture(report));
    for (const warning of report.warnings) expect(page).toContain(`<li>warning: ${warning}</li>`);
    expect(page).toContain(formatCrashReport(report).split('\n')[0]);
    expect(page.replaceAll('http://www.w3.org/2000/svg', '')).not.toMatch(
      /https?:|url\(|src=|href=/,
    );
  });
});
