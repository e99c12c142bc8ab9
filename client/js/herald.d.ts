/** The text that a program saves to go on later. Treat it as opaque. */
export type Position = string;

export interface HeraldOptions {
  /** Where an earlier Herald was: its position. */
  position?: Position;
  /** Subprotocols, as for a WebSocket. */
  protocols?: string | string[];
  /**
   * How many messages wait while there is no connection. More are an error. They are sent with the node's
   * first message, or after a fifth of timeout. Default 0.
   */
  queue?: number;
  /** Whether a message counts as processed when its handlers have returned, or one calls close. Default true; otherwise call ack. */
  ack?: boolean;
  /** The bound of the first pause, in ms. It doubles with each try. Default 500. */
  minDelay?: number;
  /** The highest bound of a pause, in ms. Default 30000. */
  maxDelay?: number;
  /**
   * How long a handshake, the URL included, or the answer to silence may take, in ms. Default 10000.
   * A node that says nothing for a fifth of that may be one that keeps nothing: then there is a gap,
   * unless it is the first connection, and all is live.
   */
  timeout?: number;
  /** How long the answer may take when the machine wakes or the network changes, in ms. Default 1000. */
  probe?: number;
  /** What makes the connections. Default globalThis.WebSocket. Without one nothing happens: Node before 22 has none. */
  WebSocket?: new (url: string, protocols?: string | string[]) => unknown;
}

/** A message, and the position behind it. */
export interface HeraldMessage extends Event {
  readonly data: any;
  readonly position: Position;
}

/** Something may be missing: fetch what is newer than the last thing that you have. */
export interface HeraldGap extends Event {
  /** By the node's clock, if it is known. */
  readonly since?: Date;
  readonly until?: Date;
}

/** The node keeps messages. resumed says that what was missed is coming. */
export interface HeraldWelcome extends Event {
  /** The connection's id, followed by "~" and a signature that proves it. */
  readonly conn: string;
  readonly user: string;
  readonly resumed: boolean;
}

/** A connection ended, or did not come about. The next try is in wait ms, an integer. */
export interface HeraldDisconnect extends Event {
  readonly code: number;
  readonly reason: string;
  readonly wait: number;
}

/** It is over: after close(), or because a newer connection took the place of this one (4409). */
export interface HeraldClose extends Event {
  readonly code: number;
  readonly reason: string;
  readonly wasClean: boolean;
}

/** The function that gives the URL failed, or gave something else. It is tried again. */
export interface HeraldError extends Event {
  readonly error: unknown;
}

export interface HeraldEvents {
  open: Event;
  message: HeraldMessage;
  gap: HeraldGap;
  welcome: HeraldWelcome;
  live: Event;
  disconnect: HeraldDisconnect;
  error: HeraldError;
  close: HeraldClose;
}

type Url = string | URL;

/** A WebSocket that comes back by itself, and to where it was if the node keeps messages. */
export class Herald extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /**
   * Throws a SyntaxError if url is not one of a WebSocket: absolute or, in a page, relative, of ws, wss, http or
   * https. A function is called before each try, and can give a fresh token.
   */
  constructor(url: Url | (() => Url | Promise<Url>), options?: HeraldOptions);

  /** CONNECTING also between two connections. */
  readonly readyState: 0 | 1 | 2 | 3;
  readonly bufferedAmount: number;
  binaryType: "blob" | "arraybuffer";

  /** Behind the last message that is processed. Save it together with what the message caused. */
  readonly position: Position;

  /** Throws if there is no connection, unless the option queue has room. After close it does nothing. */
  send(data: string | ArrayBufferLike | ArrayBufferView | Blob): void;

  /** Says that a message is processed, and all before it. Without an argument: all that has come. After a later one it does nothing. */
  ack(message?: HeraldMessage): void;

  /**
   * Finds out whether the connection is alive, as it does by itself on wake. One on which nothing has come
   * for the time of timeout, and nothing before, is replaced. If there is none it connects now, unless the
   * node has asked for a longer pause.
   */
  check(): void;

  /** Throws as a WebSocket does if the code or the reason is not allowed, and has changed nothing then. */
  close(code?: number, reason?: string): void;

  /** The connection is open, but with RejectAfterUpgrade the node may still refuse it: see onlive. */
  onopen: ((event: Event) => void) | null | undefined;
  onmessage: ((event: HeraldMessage) => void) | null | undefined;
  ongap: ((event: HeraldGap) => void) | null | undefined;
  onwelcome: ((event: HeraldWelcome) => void) | null | undefined;
  /** What was missed has come. Once for each connection, also if nothing was missed, or the node keeps nothing. Not if it was refused. */
  onlive: ((event: Event) => void) | null | undefined;
  ondisconnect: ((event: HeraldDisconnect) => void) | null | undefined;
  onerror: ((event: HeraldError) => void) | null | undefined;
  onclose: ((event: HeraldClose) => void) | null | undefined;

  addEventListener<K extends keyof HeraldEvents>(type: K, listener: (event: HeraldEvents[K]) => void, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof HeraldEvents>(type: K, listener: (event: HeraldEvents[K]) => void, options?: boolean | EventListenerOptions): void;
}
