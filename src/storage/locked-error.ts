// By itself, because no scheduler needs it.

import { WriteBarrierError } from '../model/index.js';

/** Another writer has the file or the device. */
export class StorageLockedError extends WriteBarrierError {
  override get name(): 'StorageLockedError' {
    return 'StorageLockedError';
  }
  /**
   * The name of the ticket that is in the way, for `FileStorage.breakLock`. Undefined if there is no ticket to break: the lock
   * of the operating system ends only with its holder.
   */
  readonly holder: string | undefined;

  /** For storages of your own as well. */
  constructor(message: string, holder?: string, options?: ErrorOptions) {
    super('STORAGE_LOCKED', message, options);
    this.holder = holder;
  }
}
