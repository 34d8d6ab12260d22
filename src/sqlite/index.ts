/**
 * SQLite on a directory of files: a file system for wa-sqlite.
 *
 * @module write-barrier/sqlite
 */

export { DirectoryVfs, type SqliteModule } from './directory-vfs.js';
