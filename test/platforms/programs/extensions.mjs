// Locks a file with the optional dependency, as the package does where that works.

import { open } from 'node:fs/promises';

const { default: extensions } = await import('fs-native-extensions');
const file = await open(new URL(import.meta.url), 'r+');
console.log(extensions.tryLock(file.fd, 0, 0));
