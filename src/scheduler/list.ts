/** A node of a list. A node is in one list at a time. */
export interface ListNode<T> {
  next: T | undefined;
  previous: T | undefined;
}

/** A doubly linked list through its nodes: it allocates nothing, and removes from the middle in one step. */
export class List<T extends ListNode<T>> {
  head: T | undefined;
  tail: T | undefined;
  size = 0;

  push(node: T): void {
    this.insert(node, undefined);
  }

  /** Puts a node before `next`, or at the end. */
  insert(node: T, next: T | undefined): void {
    node.next = next;
    node.previous = next ? next.previous : this.tail;
    if (node.previous) node.previous.next = node;
    else this.head = node;
    if (next) next.previous = node;
    else this.tail = node;
    this.size += 1;
  }

  remove(node: T): void {
    if (node.previous) node.previous.next = node.next;
    else this.head = node.next;
    if (node.next) node.next.previous = node.previous;
    else this.tail = node.previous;
    node.next = undefined;
    node.previous = undefined;
    this.size -= 1;
  }

  shift(): T | undefined {
    const { head } = this;
    if (head) this.remove(head);
    return head;
  }

  /** Front to back. The current node may be removed during the iteration. */
  *[Symbol.iterator](): Generator<T, void> {
    for (let node = this.head; node; ) {
      const { next } = node;
      yield node;
      node = next;
    }
  }
}
