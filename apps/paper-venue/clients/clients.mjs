// Clients of exchanges that nobody here wrote, against the paper venue: ccxt in four dialects, and
// Binance's own client. Each check prints a line; the first that fails ends the program.
//
//   node clients.mjs VENUES     a JSON object: dialect -> {port, admin_port, key, secret}

import assert from 'node:assert/strict'
import ccxt from 'ccxt'
import { Spot } from '@binance/spot'

const venues = JSON.parse(process.argv[2])

async function check(name, body) {
  try {
    await body()
    console.log(`ok   ${name}`)
  } catch (problem) {
    console.log(`FAIL ${name}: ${problem.stack}`)
    process.exit(1)
  }
}

async function admin(venue, method, path, body) {
  const answer = await fetch(`http://127.0.0.1:${venue.admin_port}${path}`, { method, body })
  assert.equal(answer.status, 200, await answer.text())
}

// The next request that places an order meets this fault.
async function withFault(venue, dialect, fault, body) {
  const rule = JSON.stringify({ method: 'POST', path: dialect.orderPath, nth: 1, ...fault })
  await admin(venue, 'POST', '/paper/faults', rule)
  try {
    await body()
  } finally {
    await admin(venue, 'DELETE', '/paper/faults')
  }
}

// Only the socket is redirected: what is signed names the real host.
function redirected(exchange, port) {
  exchange.fetchImplementation = (url, options) => {
    const target = new URL(url)
    delete options.agent
    return fetch(`http://127.0.0.1:${port}${target.pathname}${target.search}`, options)
  }
  return exchange
}

// By itself ccxt takes the time in milliseconds, in which more than one request fits here.
let lastNonce = Date.now()

const dialects = {
  binance: {
    open: (keys) => new ccxt.binance({ ...keys, options: { defaultType: 'spot', fetchCurrencies: false, fetchMargins: false, fetchMarkets: { types: ['spot'] } } }),
    symbol: 'BTC/USDT', base: 'BTC', orderPath: '/api/v3/order', clientId: 'newClientOrderId',
    byClientId: (id) => ({ clientOrderId: id }), closed: true, orderNotFound: ccxt.OrderNotFound,
    badSignature: ccxt.AuthenticationError,
    errors: [
      [{ kind: 'timeout', accepted: true }, ccxt.RequestTimeout],
      [{ kind: 'rate_limit' }, ccxt.DDoSProtection],
      [{ kind: 'ban' }, ccxt.DDoSProtection],
      [{ kind: 'server_error' }, ccxt.OperationFailed],
      [{ kind: 'drop_reply' }, ccxt.NetworkError],
    ],
  },
  binance_futures: {
    open: (keys) => new ccxt.binance({ ...keys, options: { defaultType: 'swap', defaultSubType: 'linear', fetchCurrencies: false, fetchMargins: false, fetchMarkets: { types: ['linear'] } } }),
    symbol: 'BTC/USDT:USDT', base: 'USDT', orderPath: '/fapi/v1/order', clientId: 'newClientOrderId',
    byClientId: (id) => ({ clientOrderId: id }), positions: true, orderNotFound: ccxt.OrderNotFound,
    badSignature: ccxt.AuthenticationError,
    errors: [
      [{ kind: 'timeout', accepted: true }, ccxt.RequestTimeout],
      [{ kind: 'rate_limit' }, ccxt.DDoSProtection],
    ],
  },
  kraken: {
    open: (keys) => Object.assign(new ccxt.kraken(keys), { nonce: () => ++lastNonce }),
    symbol: 'BTC/USD', base: 'BTC', orderPath: '/0/private/AddOrder', clientId: 'cl_ord_id',
    closed: true, status: true, orderNotFound: ccxt.InvalidOrder, badSignature: ccxt.ExchangeError,
    errors: [
      [{ kind: 'rate_limit' }, ccxt.DDoSProtection],
      [{ kind: 'server_error' }, ccxt.ExchangeNotAvailable],
    ],
  },
  coinbase: {
    open: (keys) => Object.assign(new ccxt.coinbase(keys), { has: { ...new ccxt.coinbase().has, fetchCurrencies: false } }),
    symbol: 'BTC/USD', base: 'BTC', orderPath: '/api/v3/brokerage/orders', clientId: 'client_order_id',
    time: { method: 'v3PublicGetBrokerageTime' }, balance: { v3: true }, closed: true, orderNotFound: ccxt.OrderNotFound, cancelUnknown: ccxt.ExchangeError,
    funds: ccxt.ExchangeError,  // it knows this code by another member only
    errors: [[{ kind: 'rate_limit' }, ccxt.RateLimitExceeded]],
  },
}

async function drive(name, venue) {
  const dialect = dialects[name]
  const keys = { apiKey: venue.key, secret: venue.secret, enableRateLimit: false }
  const exchange = redirected(dialect.open(keys), venue.port)
  const symbol = dialect.symbol
  const place = (id, price = 40000, amount = 0.001) =>
    exchange.createOrder(symbol, 'limit', 'buy', amount, price, { [dialect.clientId]: id })
  let placed

  await check(`${name}: time`, async () => {
    const skew = await exchange.fetchTime(dialect.time) - Date.now()
    assert.ok(Math.abs(skew) < 2000, `${skew} ms`)
  })
  await check(`${name}: rules`, async () => {
    await exchange.loadMarkets()
    assert.ok(exchange.market(symbol).active)
  })
  if (dialect.status) {
    await check(`${name}: status`, async () => {
      assert.equal((await exchange.fetchStatus()).status, 'ok')
    })
  }
  await check(`${name}: balances`, async () => {
    const balance = await exchange.fetchBalance(dialect.balance ?? {})
    assert.ok(balance[dialect.base].total > 0)
  })
  await check(`${name}: place`, async () => {
    placed = await place('defib1')
    assert.ok(placed.id)
  })
  await check(`${name}: open orders`, async () => {
    const open = await exchange.fetchOpenOrders(symbol)
    assert.deepEqual(open.map((order) => order.id), [placed.id])
    assert.equal(open[0].price, 40000)
    assert.equal(open[0].amount, 0.001)
  })
  await check(`${name}: one order`, async () => {
    const order = await exchange.fetchOrder(placed.id, symbol)
    assert.equal(order.status, 'open')
    assert.equal(order.clientOrderId, 'defib1')
    if (!dialect.byClientId) return
    const found = await exchange.fetchOrder(undefined, symbol, dialect.byClientId('defib1'))
    assert.equal(found.id, placed.id)
  })
  await check(`${name}: cancel`, async () => {
    await exchange.cancelOrder(placed.id, symbol)
    assert.equal((await exchange.fetchOpenOrders(symbol)).length, 0)
  })
  await check(`${name}: an order that is not there`, async () => {
    await assert.rejects(exchange.cancelOrder(placed.id, symbol),
      dialect.cancelUnknown ?? dialect.orderNotFound)
  })
  await check(`${name}: fills`, async () => {
    await place('defib2', 90000)  // crosses, wherever the market has gone
    const trades = await exchange.fetchMyTrades(symbol)
    assert.ok(trades.length > 0)
    assert.equal(trades.reduce((sum, trade) => sum + trade.amount, 0), 0.001)
  })
  if (dialect.closed) {
    await check(`${name}: closed orders`, async () => {
      const closed = await exchange.fetchClosedOrders(symbol)
      assert.ok(closed.some((order) => order.status === 'closed'), JSON.stringify(closed))
    })
  }
  if (dialect.positions) {
    await check(`${name}: positions`, async () => {
      const positions = await exchange.fetchPositions([symbol])
      assert.equal(positions.length, 1)
      assert.equal(positions[0].side, 'long')
    })
  }
  await check(`${name}: too little money`, async () => {
    await assert.rejects(place('defib3', 40000, 900), dialect.funds ?? ccxt.InsufficientFunds)
  })
  for (const [fault, expected] of dialect.errors) {
    await check(`${name}: ${fault.kind} is ${expected.name}`, () =>
      withFault(venue, dialect, fault, () =>
        assert.rejects(place(`fault${fault.kind}`.replace('_', '')), expected)))
  }
  if (dialect.badSignature) {
    await check(`${name}: a wrong secret`, async () => {
      const secret = Buffer.from('wrong').toString('base64')
      const wrong = redirected(dialect.open({ ...keys, secret }), venue.port)
      wrong.setMarkets(exchange.markets)
      await assert.rejects(wrong.fetchBalance(dialect.balance ?? {}), dialect.badSignature)
    })
  }
  if (name !== 'coinbase') {
    await check(`${name}: cancel all`, async () => {
      await place('defib4')
      await place('defib5')
      await exchange.cancelAllOrders(symbol)
      assert.equal((await exchange.fetchOpenOrders(symbol)).length, 0)
    })
  }
}

// Binance's own client, which sends an order in the query and not in the body.
async function official(venue) {
  const client = new Spot({
    configurationRestAPI: {
      apiKey: venue.key, apiSecret: venue.secret, basePath: `http://127.0.0.1:${venue.port}`,
    },
  })
  const api = client.restAPI
  const symbol = 'BTCUSDT'
  await check('@binance/spot: place, find, list, cancel', async () => {
    const placed = await (await api.newOrder({
      symbol, side: 'BUY', type: 'LIMIT', timeInForce: 'GTC', quantity: 0.001, price: 40000,
      newClientOrderId: 'official1',
    })).data()
    assert.equal(placed.clientOrderId, 'official1')
    const found = await (await api.getOrder({ symbol, origClientOrderId: 'official1' })).data()
    assert.equal(found.orderId, placed.orderId)
    const open = await (await api.getOpenOrders({ symbol })).data()
    assert.ok(open.some((order) => order.clientOrderId === 'official1'))
    const cancelled = await (await api.deleteOrder({ symbol, orderId: placed.orderId })).data()
    assert.equal(cancelled.status, 'CANCELED')
  })
  await check('@binance/spot: account, trades, rules, time', async () => {
    const account = await (await api.getAccount()).data()
    assert.ok(account.balances.length > 0)
    assert.ok((await (await api.myTrades({ symbol })).data()).length > 0)
    assert.ok((await (await api.exchangeInfo()).data()).symbols.length > 0)
    assert.ok((await (await api.time()).data()).serverTime > 0)
  })
  await check('@binance/spot: an order that is not there', async () => {
    await assert.rejects(api.deleteOrder({ symbol, origClientOrderId: 'nobody' }))
  })
}

for (const [name, venue] of Object.entries(venues)) await drive(name, venue)
if (venues.binance) await official(venues.binance)
