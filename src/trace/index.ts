export { type RecorderOptions, TraceRecorder } from './recorder.js';
export { formatTimeline } from './timeline.js';
