// What is wrong with a request, in the terms of the protocol. Nothing that fails here reaches a storage.
//
// The order of the questions is the order of the answers: what the command is, its flags, whether the export may be
// written, whether the bytes exist, whether they are whole blocks. FUA is taken on every command, as the protocol
// wants it, and means something only where data is changed.
//
// Source: NetworkBlockDevice/nbd doc/proto.md, sections "Request types", "Command flags", "Error values"; the
// question of FUA on reads is NetworkBlockDevice/nbd issue 45.

import {
  COMMAND,
  COMMAND_FLAG,
  NBD_ERROR,
  type NbdRequest,
  TRANSMISSION_FLAG,
} from '../wire/index.js';
import type { ExportTerms } from './exports.js';

/** A refusal: one of `NBD_ERROR`, and words for people. */
export interface Refusal {
  readonly error: number;
  readonly message: string;
}

/** What was agreed on with the client. */
export interface Agreed {
  readonly structured: boolean;
  /** The context base:allocation. */
  readonly allocation: boolean;
}

interface CommandRule {
  /** Flags that it takes, beside FUA. */
  readonly flags: number;
  /** The transmission flag that offers it; 0 for what is always there. */
  readonly needs: number;
  readonly writes: boolean;
  readonly ranged: boolean;
  /** Its length is that of a payload, and bounded. */
  readonly payload: boolean;
}

const rule = (
  flags: number,
  needs: number,
  kind: 'read' | 'look' | 'write' | 'change' | 'none',
): CommandRule => ({
  flags,
  needs,
  writes: kind === 'write' || kind === 'change',
  ranged: kind !== 'none',
  payload: kind === 'read' || kind === 'write',
});

const { DF, NO_HOLE, FAST_ZERO, REQ_ONE } = COMMAND_FLAG;
const FLAG = TRANSMISSION_FLAG;

const RULES: ReadonlyMap<number, CommandRule> = new Map([
  [COMMAND.READ, rule(DF, 0, 'read')],
  [COMMAND.WRITE, rule(0, 0, 'write')],
  [COMMAND.FLUSH, rule(0, FLAG.SEND_FLUSH, 'none')],
  [COMMAND.TRIM, rule(0, FLAG.SEND_TRIM, 'change')],
  [COMMAND.CACHE, rule(0, FLAG.SEND_CACHE, 'look')],
  [COMMAND.WRITE_ZEROES, rule(NO_HOLE | FAST_ZERO, FLAG.SEND_WRITE_ZEROES, 'change')],
  [COMMAND.BLOCK_STATUS, rule(REQ_ONE, 0, 'look')],
]);

/** What is wrong with a request; undefined for nothing. DISC is not asked about. */
export function refusalOf(
  request: NbdRequest,
  terms: ExportTerms,
  agreed: Agreed,
): Refusal | undefined {
  const rule = RULES.get(request.command);
  if (!rule) return refuse(NBD_ERROR.EINVAL, `unknown command ${request.command}`);
  const unknown = request.flags & ~flagsFor(rule, terms, agreed);
  if (unknown) return refuse(NBD_ERROR.EINVAL, `flags 0x${unknown.toString(16)} not for this`);
  if (rule.writes && terms.readOnly) return refuse(NBD_ERROR.EPERM, 'the export is read-only');
  if (rule.needs && (terms.flags & rule.needs) === 0) {
    return refuse(NBD_ERROR.EINVAL, 'the command was not offered');
  }
  if (request.command === COMMAND.BLOCK_STATUS && !(agreed.structured && agreed.allocation)) {
    return refuse(NBD_ERROR.EINVAL, 'no context was agreed on');
  }
  return rule.ranged ? rangeRefusal(request, rule, terms) : emptyRefusal(request);
}

function flagsFor(rule: CommandRule, { flags }: ExportTerms, { structured }: Agreed): number {
  const fua = flags & FLAG.SEND_FUA ? COMMAND_FLAG.FUA : 0;
  const df = structured ? DF : 0;
  const fast = flags & FLAG.SEND_FAST_ZERO ? FAST_ZERO : 0;
  return fua | (rule.flags & (df | fast | NO_HOLE | REQ_ONE));
}

function rangeRefusal(
  { command, offset, length, flags }: NbdRequest,
  rule: CommandRule,
  { size, blockSizes: { minimum, maximum } }: ExportTerms,
): Refusal | undefined {
  if (rule.payload && length > maximum) {
    const error = flags & DF ? NBD_ERROR.EOVERFLOW : NBD_ERROR.EINVAL;
    return refuse(error, `${length} bytes at once, ${maximum} at most`);
  }
  // A rounded offset beyond 2^53 is beyond every size, and the sum only grows.
  if (offset + length > size) {
    const grows = command === COMMAND.WRITE || command === COMMAND.WRITE_ZEROES;
    return refuse(grows ? NBD_ERROR.ENOSPC : NBD_ERROR.EINVAL, `beyond the end at ${size}`);
  }
  if (length === 0) return refuse(NBD_ERROR.EINVAL, 'no bytes');
  if (offset % minimum === 0 && length % minimum === 0) return undefined;
  return refuse(NBD_ERROR.EINVAL, `not whole blocks of ${minimum} bytes`);
}

function emptyRefusal({ offset, length }: NbdRequest): Refusal | undefined {
  if (offset === 0 && length === 0) return undefined;
  return refuse(NBD_ERROR.EINVAL, 'offset and length are reserved and must be 0');
}

function refuse(error: number, message: string): Refusal {
  return { error, message };
}
