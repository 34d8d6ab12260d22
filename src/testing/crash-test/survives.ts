// The body of a test for any test runner: it fails with the report as its message, and its stack begins where it was made.

import { checkOptions } from '../../model/index.js';

/** What `survives` takes. */
interface SurvivesOptions {
  readonly allowWarnings?: boolean;
  readonly full?: boolean;
}

interface AnyReport {
  readonly verdict: string;
  readonly failure?: { readonly cause: unknown };
  readonly warnings: readonly string[];
}

/** @param caller the function whose caller the stack begins with */
export function bodyOf<T extends AnyReport>(
  run: () => Promise<T>,
  format: (report: T, options: { readonly full?: boolean }) => string,
  options: SurvivesOptions,
  caller: (...args: never[]) => unknown,
): () => Promise<void> {
  checkOptions(options, { allowWarnings: 0, full: 0 }, 'survives');
  const { allowWarnings = false, full = false } = options;
  const called = new Error();
  Error.captureStackTrace?.(called, caller);
  return async () => {
    const report = await run();
    const { verdict, failure, warnings } = report;
    const passes = verdict === 'proved' || verdict === 'passed';
    if (passes && (allowWarnings || warnings.length === 0)) return;
    const text = format(report, { full });
    const error = new Error(text, { ...(failure && { cause: failure.cause }) });
    const { stack } = called;
    // Only V8 begins a stack with the message. A program may have made something else of its stacks.
    if (typeof stack === 'string')
      error.stack = stack.replace(/^Error(?:: ?)?(?=\n)/, () => `Error: ${text}`);
    throw error;
  };
}
