/**
 * Crash tests of programs that write files, without a change to the program. Node on Linux and macOS.
 *
 * `write-barrier/testing/files/register`, loaded with `node --import`, lets modules be tested that take functions out of
 * `node:fs` when they are loaded.
 *
 * @module write-barrier/testing/files
 */

export { byCommand } from './by-command.js';
export { crashFiles, type FsyncMutant, fsyncMutation, survives } from './crash-files.js';
export { filesPicture } from './files-picture.js';
export { formatFilesReport } from './files-report.js';
export type {
  CrashFilesTest,
  FilesCut,
  FilesFailure,
  FilesReport,
  FilesVerdict,
} from './files-test.js';
export { FILE_MODELS, type FileModel, type FileModelName } from './models.js';
export { type FilesRecording, recordFiles } from './record.js';
export {
  type FileCrash,
  type FileSpace,
  type FileSpaceOptions,
  type FileState,
  fileSpace,
  type TreeNode,
} from './space.js';
export { type StraceRecording, straceFiles } from './strace.js';
export type {
  Entry,
  FileChange,
  FileNode,
  FileOperation,
  FileSync,
  FilesTrace,
} from './trace.js';
