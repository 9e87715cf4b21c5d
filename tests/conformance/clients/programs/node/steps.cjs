// What the programs for node share: how results are said, and in which order steps are done (foreign/steps.py).
'use strict';
const readline = require('readline');

const { PBUS_HOST: host, PBUS_PORT, PBUS_CUT_PORT, PBUS_QUEUE: Q } = process.env;
const TRACEPARENT = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
const ORDER = [
  'connect', 'push', 'push-typed', 'pipeline', 'transaction', 'pool', 'authenticate', 'pull', 'look', 'ack-elsewhere',
  'nack', 'blocking-pop', 'errors', 'unanswered', 'reconnect',
];

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const shown = (error) => ({ class: error.name === 'Error' ? error.constructor.name : error.name, text: error.message });

async function ask(what) {
  say({ ask: what });
  await lines.next();
}

/** The reply to a command, or what the client threw. */
async function outcome(call) {
  try {
    return await call();
  } catch (error) {
    return shown(error);
  }
}

/** Outcomes of pushes after the bus was done something to, until one is stored. */
async function after(what, push) {
  await ask(what);
  const outcomes = [];
  while (outcomes.length < 40) {
    outcomes.push(await outcome(push));
    if (typeof outcomes.at(-1) === 'number') break;
    await sleep(100);
  }
  return outcomes;
}

async function run(steps) {
  for (const name of ORDER) {
    try {
      say({ step: name, got: await steps[name]() });
    } catch (error) {
      say({ step: name, failed: error.stack });
    }
  }
  process.exit(0);
}

const range = (count) => Array.from({ length: count }, (_, index) => index);
const bodies = [...range(97).map((index) => `push ${index}`), '', '花椒 ñ', Buffer.from([0x00, 0xff, 0x0d, 0x0a])];

module.exports = {
  host, port: Number(PBUS_PORT), cutPort: Number(PBUS_CUT_PORT), Q, TRACEPARENT, ask, outcome, after, shown, sleep, range,
  bodies, run,
};
