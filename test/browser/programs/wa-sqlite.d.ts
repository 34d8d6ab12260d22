// What the worker uses and the declarations of others leave out.

declare module '@journeyapps/wa-sqlite/src/examples/*' {
  interface Made {
    create(name: string, module: unknown): Promise<SQLiteVFS>;
  }
  export const AccessHandlePoolVFS: Made;
  export const OPFSAdaptiveVFS: Made;
  export const OPFSCoopSyncVFS: Made;
}

declare module '*.wasm' {
  const bytes: Uint8Array;
  export default bytes;
}

declare const FileSystemSyncAccessHandle: { readonly prototype: { flush(): void } };
