// The log without generation numbers of docs/crash-testing.md, whose old record comes back in its second life.

import { IoScheduler, type Storage } from 'write-barrier';
import { type CrashReport, type CrashTest, crashTest } from 'write-barrier/testing';
import { picture, rect, type Shape, words } from '../../../src/trace/svg.js';

const SECTOR = 512;
const SLOTS = 2;

async function recover(disk: Storage): Promise<number[]> {
  const values: number[] = [];
  for (let slot = 1; slot <= SLOTS; slot += 1) {
    const record = new Uint8Array(SECTOR);
    await disk.read((slot - 1) * SECTOR, record);
    if (record[0] !== slot) break;
    values.push(record[1] as number);
  }
  return values;
}

const log: CrashTest<number, number[]> = {
  size: SLOTS * SECTOR,
  lives: 2,
  workload: async (device, journal, _, { number }) => {
    const disk = new IoScheduler(device);
    const slots = (await recover(device)).length;
    const values = (number === 1 ? [11, 12] : [21]).slice(0, SLOTS - slots);
    for (const value of values) journal.begin(value);
    await Promise.all(
      values.map((value, n) => {
        const record = new Uint8Array(SECTOR);
        record.set([slots + n + 1, value]);
        return disk.write((slots + n) * SECTOR, record);
      }),
    );
    await disk.flush();
    for (const value of values) journal.acknowledge(value);
  },
  recover,
  check: (found, { shown = [], acknowledged, begun }) => {
    const may = [...shown, ...begun];
    return (
      found.length >= shown.length + acknowledged.length && found.every((one, n) => one === may[n])
    );
  },
};

/** The slots after each power cut: the value that is there, and the one that is lost. */
function slotsOf({ failure }: CrashReport): (readonly [there: number, lost: number])[][] {
  const slots: [number, number][] = Array.from({ length: SLOTS }, () => [0, 0]);
  return (failure?.cuts ?? []).map(({ regions, trace }) => {
    for (const { offset, there, lost } of regions) {
      // One command may have written several records.
      const valueIn = (number = -1): number => {
        const command = trace.commands[number];
        return command?.data?.[offset - command.offset + 1] ?? 0;
      };
      const before = slots[offset / SECTOR]?.[0] ?? 0;
      slots[offset / SECTOR] = [valueIn(there) || before, valueIn(lost.at(-1))];
    }
    return slots.map(([there, lost]) => [there, lost] as const);
  });
}

const WIDTH = 360;
const MARGIN = 12;

export async function lives(): Promise<string> {
  const report = await crashTest(log);
  const [first = [], second = []] = slotsOf(report);
  const shapes: Shape[] = [words(MARGIN, 24, 'A record that comes back', 'head')];
  const told: string[] = [];
  let y = 40;
  const life = (lines: readonly string[], slots: typeof first): void => {
    for (const text of lines) {
      shapes.push(words(MARGIN, y + 11, text));
      y += 15;
    }
    shapes.push(words(MARGIN, y + 19, 'after the power cut:', 'quiet'));
    for (const [n, [there, lost]] of slots.entries()) {
      const left = 140 + n * 106;
      const look = lost ? 'lost' : there ? 'there' : 'later';
      const text = lost ? `${lost} is lost` : `${there}`;
      shapes.push(
        rect(left, y + 4, 100, 24, look),
        words(left + 50, y + 20, text, `code middle ${lost ? 'lost' : 'on'}`),
      );
      told.push(`${lines[0]}: slot ${n + 1}: ${text}`);
    }
    y += 46;
  };
  life(['First life: writes 11 to slot 1, 12 to slot 2'], first);
  life(['Second life: the recovery shows an empty log,', 'then 21 is written to slot 1'], second);
  const last = second.map(([there]) => there).join(', ');
  shapes.push(
    words(MARGIN, y + 4, `The next recovery shows ${last}: 12 was not in the log`, 'lost'),
    words(MARGIN, y + 19, 'when the second life began, and it did not write it.', 'lost'),
  );
  told.push(`the next recovery shows ${last}`);
  const title = 'A log of two slots in two lives';
  return picture(
    { width: WIDTH, height: y + 32, title, description: `${told.join('. ')}.` },
    shapes,
  );
}
