// @ts-check
import { command } from '../command.mjs';

await command('serve');
