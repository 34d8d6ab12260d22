export { chromeTrace } from './chrome.js';
export { type TimedEvent, TraceRecorder } from './recorder.js';
export { drawTimeline, formatTimeline } from './timeline.js';
