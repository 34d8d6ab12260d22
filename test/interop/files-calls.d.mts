export const CALLS: Readonly<Record<string, (folder: string) => unknown>>;
export function prepare(root: string): void;
export function makeAll(root: string, mark: (number: number) => void): Promise<void>;
