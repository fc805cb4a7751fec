// Small parts that several pages share.
import type { ButtonHTMLAttributes, ReactNode } from 'react';
import { hue, initials } from './names';

export function Logo() {
  return (
    <span className="logo">
      <img src="/favicon.svg" alt="" width="28" height="28" />
      AuraLink
    </span>
  );
}

export function Avatar({ name }: { name: string }) {
  return (
    <span className={`avatar hue-${Math.floor(hue(name) / 45)}`} aria-hidden="true">
      {initials(name)}
    </span>
  );
}

interface IconButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  /// What pressing does; read aloud, and shown on hover.
  label: string;
  /// Key that does the same.
  shortcut?: string;
  tone?: 'plain' | 'off' | 'on' | 'danger';
  badge?: number;
  children: ReactNode;
}

/// A round button that shows an icon and says what it does.
export function IconButton({ label, shortcut, tone = 'plain', badge, children, ...rest }: IconButtonProps) {
  return (
    <button
      type="button"
      className={`icon-button ${tone}`}
      aria-label={label}
      title={shortcut ? `${label} (${shortcut})` : label}
      aria-keyshortcuts={shortcut}
      {...rest}
    >
      {children}
      {badge ? <span className="badge" aria-hidden="true">{badge > 99 ? '99+' : badge}</span> : null}
    </button>
  );
}

export function Notice({ tone = 'info', children }: { tone?: 'info' | 'warning' | 'error'; children: ReactNode }) {
  return (
    <div className={`notice ${tone}`} role={tone === 'error' ? 'alert' : 'status'}>
      {children}
    </div>
  );
}
