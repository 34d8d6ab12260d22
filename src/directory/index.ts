/**
 * A directory of files on one disk, with one order among all of them.
 *
 * @module write-barrier/directory
 */

export { Directory, DirectoryFile, type DirectoryOptions } from './directory.js';
