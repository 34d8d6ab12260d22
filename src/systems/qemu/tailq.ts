// The tail queue of <sys/queue.h>, as plain data: a list is a pointer to its first block and the address of the
// pointer to write the next one into; a block has the number of its successor and the address of the pointer that
// names it. An address is a `Cell`. Blocks are numbers, so a corrupted list is a wrong number and nothing worse.
//
// Both operations do exactly the four assignments of the macros. They believe what they are told, as the macros do:
// unlinking a block from a list that it is not on, or twice, changes whatever its addresses point to.
//
// Memory that was given back is a block that is not in `blocks` any more. What is written there is lost; nobody ever
// gets the memory for something else.
//
// Source: TAILQ_INSERT_TAIL and TAILQ_REMOVE in QEMU's sys-queue.h (2009).

/** The two lists of the patch: what waits for a worker, and what waits for a barrier. */
export type ListName = 'run' | 'post';

/** Where a pointer to a block is: at the head of a list, or in the block of that number. */
export type Cell = ListName | number;

/** What a block has to be on a list. */
export interface Links {
  /** The block behind it; null for the last one. */
  next: number | null;
  /** The pointer that names this block. */
  prev: Cell;
}

/** Both lists, and the blocks that may be on them. */
export interface TailQueues<B extends Links = Links> {
  /** Null for an empty list. */
  readonly first: Record<ListName, number | null>;
  /** The pointer that the next block goes into: the `next` of the last block, or the head. */
  readonly last: Record<ListName, Cell>;
  /** By number. */
  readonly blocks: Record<number, B>;
}

/** TAILQ_INSERT_TAIL. */
export function insertTail(queues: TailQueues, list: ListName, number: number): void {
  const block = queues.blocks[number] as Links;
  block.next = null;
  block.prev = queues.last[list];
  store(queues, block.prev, number);
  queues.last[list] = number;
}

/** TAILQ_REMOVE; `list` is what the caller believes. */
export function unlink(queues: TailQueues, list: ListName, number: number): void {
  const { next, prev } = queues.blocks[number] as Links;
  const successor = next === null ? undefined : queues.blocks[next];
  if (next === null) queues.last[list] = prev;
  else if (successor) successor.prev = prev;
  store(queues, prev, next);
}

function store(queues: TailQueues, cell: Cell, number: number | null): void {
  if (typeof cell !== 'number') queues.first[cell] = number;
  else {
    const block = queues.blocks[cell];
    if (block) block.next = number;
  }
}
