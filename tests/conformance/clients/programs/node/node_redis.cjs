// node-redis; PBUS_PACKAGE says which major version. What each step does is said in foreign/steps.py.
'use strict';
const { createClient, createClientPool } = require(process.env.PBUS_PACKAGE);
const { version } = require(`${process.env.PBUS_PACKAGE}/package.json`);
const { host, port, cutPort, Q, TRACEPARENT, ask, outcome, after, shown, sleep, range, bodies, run } = require('./steps.cjs');

async function client(identity = {}, to = port) {
  const redis = createClient({ socket: { host, port: to }, ...identity });
  redis.on('error', () => {}); // told by the commands
  return redis.connect();
}

/** With a wrong password connect() never settles: it says so by the event, and tries again. */
async function refused(identity) {
  const redis = createClient({ socket: { host, port }, ...identity });
  const error = await new Promise((resolve) => {
    redis.on('error', resolve);
    redis.connect().then(() => resolve(new Error('connected')), resolve);
  });
  redis.destroy();
  return shown(error);
}

let r;
const pulled = [];

const entries = (reply) =>
  (reply || []).flatMap(({ messages }) => messages.map(({ id, message }) => ({ id, ...message })));

const read = async (id, options = {}) => entries(await r.xReadGroup('t', 'me', { key: Q, id }, options));

run({
  async connect() {
    r = await client();
    return { version, ping: await r.ping(), info: await r.sendCommand(['CLIENT', 'INFO']) };
  },

  async push() {
    return { reply: await r.lPush(`${Q}.bulk`, bodies) };
  },

  async 'push-typed'() {
    const options = { dedupe: `${Q} order 4711`, delay: '1', ttl: '60000', key: 'k', traceparent: TRACEPARENT };
    const typed = () => r.xAdd(`${Q}.bulk`, '*', { body: 'typed', ...options });
    return { ids: [await typed(), await typed()], plain: await r.xAdd(`${Q}.bulk`, '*', { body: 'plain' }) };
  },

  async pipeline() {
    const pushes = range(100).map((index) => r.lPush(`${Q}.bulk`, `pipe ${index}`));
    const replies = await Promise.all([...pushes, r.lLen(`${Q}.bulk`)]);
    const mixed = [['bulk', 'good 0'], ['', 'bad'], ['bulk', 'good 1']];
    return {
      replies,
      refused: await Promise.all(mixed.map(([end, body]) => outcome(() => r.lPush(end ? `${Q}.${end}` : 'nope', body)))),
    };
  },

  async transaction() {
    const replies = await r.multi().lPush(`${Q}.bulk`, 'both 0').lPush(`${Q}.bulk`, 'both 1').lLen(`${Q}.bulk`).exec();
    const never = (queue) => outcome(() => r.multi().lPush(`${Q}.bulk`, 'never').lPush(queue, 'never').exec());
    return { replies, discarded: await never('nope'), refused: await never('full') };
  },

  async pool() {
    const pool = createClientPool({ socket: { host, port } });
    pool.on('error', () => {});
    await pool.connect();
    let mixedUp = 0;
    let pushed = 0;
    await Promise.all(range(8).map(async (worker) => {
      for (const turn of range(25)) {
        const own = `pool ${worker} ${turn}`;
        if ((await pool.echo(own)) !== own) mixedUp += 1;
        await pool.lPush(`${Q}.bulk`, own);
        pushed += 1;
      }
    }));
    pool.destroy();
    return { mixed_up: mixedUp, pushed };
  },

  async authenticate() {
    const user = await client({ username: `${Q}.safe`, password: 'pw' });
    const password = await client({ password: `${Q}.safe:pw` });
    const topic = await client({ username: `${Q}.safe/t`, password: 'tpw' });
    return {
      user: await user.lPush(`${Q}.safe`, 'safe 0'), password: await password.lPush(`${Q}.safe`, 'safe 1'),
      topic: await topic.rPop(`${Q}.safe/t`),
    };
  },

  async pull() {
    await r.lPush(Q, range(4).map((index) => `pull ${index}`));
    await r.xAdd(Q, '*', { body: 'pull 4', traceparent: TRACEPARENT });
    const first = await read('>', { COUNT: 3, BLOCK: 2000 });
    const rest = await read('>');
    pulled.push(...first, ...rest);
    const counts = [await read('>'), await read('>', { BLOCK: 50 }), await read('0')].map((some) => some.length);
    return { first, rest, nothing: counts[0], waited: counts[1], open: counts[2] };
  },

  async look() {
    const listed = await r.xPendingRange(Q, 't', '-', '+', 10);
    return {
      pending: (await r.xPending(Q, 't')).pending, ids: listed.map(({ id }) => id), consumer: listed[0].consumer,
      groups: (await r.xInfoGroups(Q)).map(({ name }) => name),
      consumers: (await r.xInfoConsumers(Q, 't')).map(({ name }) => name),
      last: (await r.xInfoStream(Q))['last-entry'].id,
      bodies: (await r.xRange(Q, '-', '+', { COUNT: 100 })).map(({ message }) => message.body),
      claimed: (await r.xAutoClaim(Q, 't', 'me', 0, '0-0')).messages.length,
      cancelled: await r.xDel(Q, await r.xAdd(Q, '*', { body: 'never', delay: '60000' })),
    };
  },

  async 'ack-elsewhere'() {
    const other = await client();
    const ack = () => other.xAck(Q, 't', pulled.map((entry) => entry.id));
    return { acked: await ack(), again: await ack(), open: (await read('0')).length };
  },

  async nack() {
    await r.lPush(Q, 'nack');
    const [entry] = await read('>', { BLOCK: 2000 });
    const retried = await r.sendCommand(['PBUS.NACK', Q, 't', entry.id, 'DELAY', '0', 'REASON', 'not today']);
    const [again] = await read('>', { BLOCK: 5000 });
    const dead = await r.sendCommand(['PBUS.NACK', Q, 't', again.id, 'DEAD']);
    return { retried, attempt: again.attempt, dead, counted: (await r.hGetAll(`${Q}/t`)).dead };
  },

  async 'blocking-pop'() {
    const other = await client();
    const [got] = await Promise.all([r.brPop(`${Q}/t`, 5), sleep(100).then(() => other.lPush(Q, 'wake'))]);
    return { got: [got.key, got.element], nothing: (await r.brPop(`${Q}/t`, 0.05)) === null };
  },

  async errors() {
    const owner = await client({ username: `${Q}.safe`, password: 'pw' });
    const found = {
      NOAUTH: await outcome(() => r.lPush(`${Q}.safe`, 'x')),
      WRONGPASS: await refused({ username: `${Q}.safe`, password: 'no' }),
      NOPERM: await outcome(() => owner.xReadGroup('t', 'me', { key: `${Q}.safe`, id: '>' })),
      NOQUEUE: await outcome(() => r.lPush('nope', 'x')),
      NOTOPIC: await outcome(() => r.xReadGroup('nope', 'me', { key: Q, id: '>' })),
      QUEUEFULL: await outcome(() => r.lPush('full', 'x')),
      TOOBIG: await outcome(() => r.lPush(Q, 'x'.repeat(1048577))),
      BADVALUE: await outcome(() => r.xAdd(Q, '*', { body: 'x', delay: '-1' })),
      BUSYGROUP: await outcome(() => r.xGroupCreate(Q, 't', '$')),
      ERR: await outcome(() => r.sendCommand(['NOSUCH'])),
    };
    await ask('freeze');
    found.MAYBESTORED = await outcome(() => r.lPush('away', 'x'));
    found.UNAVAILABLE = await outcome(() => r.lPush('away', 'x'));
    await ask('thaw');
    return { ...found, after: await r.ping() };
  },

  async unanswered() {
    const cut = await client({}, cutPort);
    return {
      plain: await outcome(() => cut.lPush(`${Q}.cut`, `CUT:${Q}:plain`)),
      dedupe: await outcome(() => cut.xAdd(`${Q}.cut`, '*', { body: `CUT:${Q}:dedupe`, dedupe: `${Q} cut` })),
    };
  },

  async reconnect() {
    await r.lPush(`${Q}.cut`, 'before');
    const push = () => r.lPush(`${Q}.cut`, 'back');
    return { closed: await after('close', push), restarted: await after('restart', push) };
  },
});
