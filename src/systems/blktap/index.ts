export {
  fileStorage,
  type PlainFile,
  type SyncFile,
  SyncFileBarriers,
  type SyncWriteOptions,
} from './file-barriers.js';
export {
  TAPDISK_2010,
  TAPDISK_BEFORE,
  TAPDISK_REPAIRED,
  Tapdisk,
  type TapdiskOptions,
  type TapdiskProfile,
} from './tapdisk.js';
