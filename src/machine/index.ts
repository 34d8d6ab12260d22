export { answerCall, type Call, Driver, type DriverOptions, executeOn } from './driver.js';
export type { Command, Machine, Settled } from './machine.js';
