/**
 * A directory of files on one disk, with one order among all of them.
 *
 * @module write-barrier/directory
 */

export { Directory, type DirectoryOptions } from './directory.js';
export { DirectoryFile } from './file.js';
