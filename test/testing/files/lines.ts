// Operations of a trace as lines of text, with the paths that their files have at that moment.

import type { FilesTrace } from '../../../src/testing/files/trace.js';

/** The operations, and the marks in their places, as `mark 3`. */
export function linesOf({ initial, operations, marks }: FilesTrace): string[] {
  const paths = new Map<number, string>([[1, '']]);
  const walk = (inode: number): void => {
    const node = initial.get(inode);
    if (node?.kind !== 'directory') return;
    for (const [name, child] of node.entries) {
      if (!paths.has(child)) paths.set(child, `${paths.get(inode)}/${name}`);
      walk(child);
    }
  };
  walk(1);
  const pathOf = (inode: number): string => paths.get(inode) || '/';
  const at = (directory: number, name: string): string => `${paths.get(directory) ?? '?'}/${name}`;
  const lines: { readonly time: number; readonly text: string }[] = [];
  for (const operation of operations) {
    let text: string;
    switch (operation.op) {
      case 'create':
      case 'mkdir':
        paths.set(operation.inode, at(operation.directory, operation.name));
        text = `${operation.op} ${pathOf(operation.inode)}`;
        break;
      case 'symlink':
        text = `symlink ${at(operation.directory, operation.name)} -> ${operation.target}`;
        break;
      case 'link':
        text = `link ${pathOf(operation.inode)} -> ${at(operation.directory, operation.name)}`;
        break;
      case 'unlink':
      case 'rmdir':
        text = `${operation.op} ${at(operation.directory, operation.name)}`;
        break;
      case 'rename': {
        const { from, to } = operation;
        text = `rename ${at(from.directory, from.name)} -> ${at(to.directory, to.name)}`;
        paths.set(operation.inode, at(to.directory, to.name));
        break;
      }
      case 'write':
        text = `write ${pathOf(operation.inode)} ${operation.offset}..${operation.offset + operation.data.length}`;
        break;
      case 'truncate':
        text = `truncate ${pathOf(operation.inode)} ${operation.size}`;
        break;
      case 'sync':
        text = 'sync';
        break;
      default:
        text = `${operation.op} ${pathOf(operation.inode)}`;
    }
    lines.push({ time: operation.begin, text });
  }
  for (const { time, value } of marks) lines.push({ time, text: `mark ${JSON.stringify(value)}` });
  return lines.sort((a, b) => a.time - b.time).map(({ text }) => text);
}
